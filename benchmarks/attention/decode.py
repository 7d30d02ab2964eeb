"""What does the next token cost, against the context before it? A step of every mixer from its own state, filled.

As many sequences stand side by side as have `--total` tokens together, so that short and long contexts hold as much in
all, and each program does one step of every sequence, told where that stands: its state is overwritten, as in
generation. `step` is checked against `apply` first, both ways round: the error is that of the steps, beside that of the
whole sequence at once; then by the token whose time is taken, behind its whole context, or as much of it as `apply` has
memory for; and the program that is timed, of all sequences, against a step of one.

    minilm bench attention decode                                          four mixers, 256 to 4,096 tokens
    minilm bench attention decode --variants mha,gqa:groups=2,mla --contexts 256..32k --total 64k
"""

import jax
import jax.numpy as jnp

from benchmarks.attention import check, cost, options, protocol, record, views
from benchmarks.attention.candidates import Candidate, mixer
from minilm.flags import UsageError
from minilm.shapes import Tokens

DEFAULT = ["mha", "gqa", "mla", "gated-delta-net"]
PIECE = 128  # tokens that are read at once while a state is filled
MOST = 4e9  # bytes, for all tokens at once


def main(words: list[str]) -> int:
    """Read the options, and run."""
    parser = options.Parser("decode", __doc__)
    add = parser.add_argument
    add("--variants", "--variant", type=options.names, action="append", metavar="NAMES", help="mixers with options")
    add("--contexts", type=options.lengths, default=options.lengths("256..4k"), help="256..32k (default: 256..4k)")
    add("--total", type=options.size, default=16384, help="tokens of all sequences together (default: 16k)")
    add("--heads", type=options.positive, default=4, help="query heads (default: 4)")
    add("--width", type=options.positive, default=256, help="of the model (default: 256)")
    add("--dtype", type=options.dtypes, default=["float32"], help="f32, bf16 or both (default: f32)")
    add("--budget", type=options.seconds, default=60.0, help="seconds for all timing (default: 60)")
    add(
        "--out",
        type=options.file,
        metavar="FILE",
        help="a JSON line a measurement; of a run that is ended in FILE.part",
    )
    options.add_device(parser)
    return run(parser.parse_args(words))


def run(chosen) -> int:
    """Measure what was chosen, print it, and write it where that was asked for."""
    candidates = chosen_candidates(chosen)
    rows = measured(candidates, chosen)
    print(views.table(rows))
    print(views.summary(rows))
    if chosen.out:
        print(f"written to {chosen.out}")
    return 0


def chosen_candidates(chosen) -> list[Candidate]:
    """The mixers of a command line, or a `UsageError`."""
    options.head_width(chosen.width, chosen.heads)
    if chosen.contexts[-1] > chosen.total:
        raise UsageError(
            f"A context of {chosen.contexts[-1]} does not fit into {chosen.total} tokens: give more --total."
        )
    texts = [text for group in chosen.variants or [DEFAULT] for text in group]
    if not texts:
        raise UsageError("There is nothing to measure: name a variant, of those that `list` shows.")
    try:
        return [stepping(mixer(text, chosen.width, chosen.heads)) for text in texts]
    except ValueError as error:
        raise UsageError(str(error)) from None


def stepping(candidate: Candidate) -> Candidate:
    """A mixer whose steps are in question, and whose definition is `apply`."""
    return Candidate(**{**vars(candidate), "function": candidate.definition, "definition": candidate.function})


def measured(candidates, chosen) -> list[dict]:
    """A row for each candidate, context and dtype. Candidates of one context are timed in turn."""
    return record.collected(_measured(candidates, chosen), chosen.out, views.progress)


def _measured(candidates, chosen):
    timer, verdicts = protocol.timer(chosen.accelerator), {}
    peak = None if chosen.accelerator else cost.peak(timer.clock)
    share = chosen.budget / (len(chosen.dtype) * len(chosen.contexts))
    for dtype in chosen.dtype:
        for context in chosen.contexts:
            where, prepared, batch = record.environment(chosen.command), {}, chosen.total // context
            sizes = {"context": context, "sequences": batch, "heads": chosen.heads, "width": chosen.width}
            for candidate in candidates:
                try:
                    found = _prepared(candidate, dtype, context, batch, verdicts)
                except Exception as error:  # whatever a candidate does, the others are still measured
                    found = protocol.failure(error)
                prepared[candidate.name] = candidate, found
            runs = {name: found["run"] for name, (_, found) in prepared.items() if "run" in found}
            times, failed = protocol.settled_times(runs, seconds=share, timer=timer)
            for name, (candidate, found) in prepared.items():
                found = found | failed.get(name, {})
                figures = _figures(found, times.get(name), timer.name, batch, peak)
                yield record.row("decode", where, candidate, mode="decode", sizes=sizes, dtype=dtype, **figures)


def _prepared(candidate, dtype, context, batch, verdicts):
    """One step of all sequences, ready to be timed; or a status with its reason."""
    if (candidate.name, dtype) not in verdicts:
        verdicts[candidate.name, dtype] = check.check(candidate, "fwd", dtype, candidate.checked)
    verdict = verdicts[candidate.name, dtype]
    if not verdict["passed"]:
        return {"status": "wrong", "reason": verdict["reason"], "check": verdict}
    params, x = check.arguments(candidate, "normal", context, "fwd", dtype)
    state = filled(candidate, params, x, context)
    verdict = verdict | {"long": last_token(candidate, params, x, state, verdict["laws"]["normal"]["allowed"])}
    if not verdict["long"]["passed"]:
        return {"status": "wrong", "reason": verdict["long"]["reason"], "check": verdict}

    def step(params, states, x, position):
        def one(state, x, position):
            return candidate.mixer.step(params, state, x[None], Tokens(position[None], jnp.zeros(1, jnp.int32)))

        return jax.vmap(one)(states, x, position)

    # The last token goes to the first sequence, its neighbours to the others, which stand at two places.
    rows = jnp.arange(context - 1, context - 1 - batch, -1) % context
    places = jnp.maximum(context - 1 - jnp.arange(batch, dtype=jnp.int32) % 2, 0)
    states = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], batch, axis=0), state)
    inputs = params, states, x[rows], places
    program, seconds = protocol.compiled(step, inputs, donate=(1,))
    held, executed = cost.held(state), cost.flops(candidate, step, inputs, context, "fwd")["executed"]
    found = {"check": verdict, "memory": cost.memory(program), "flops": {"useful": None, "executed": executed}}
    found["bytes"] = {"held": held, "read": held}  # every step here reads all that it holds, masked or not

    def run():
        nonlocal states
        states, y = program(params, states, *inputs[2:])
        return jax.block_until_ready(y)

    y = run()
    for i in {0, batch // 2, batch - 1}:
        alone = candidate.mixer.step(params, state, inputs[2][i][None], _at(places[i]))
        error = check.worst(jax.tree.map(lambda leaf, i=i: leaf[i], (states, y)), alone)[0]
        errors = {"error": error, "where": "a step with its state", "allowed": verdict["long"]["allowed"]}
        alike = check.judged(errors, f"of {batch} sequences side by side")
        if not alike["passed"]:
            return found | {"status": "wrong", "reason": alike["reason"]}
    return found | {"run": run, "compile": seconds}


def filled(candidate: Candidate, params, x, context: int):
    """The state of one sequence behind all tokens of a context but its last, read in pieces."""
    slots = candidate.slots(context)
    piece = min(PIECE, slots)
    # A piece would roll through a window's cache, whose first token must still find the keys before it. So the last
    # tokens are read alone: as many as a window holds, and before them those that its first convolution reads.
    last = slots + candidate.convolution
    pieces, alone = divmod(context - 1, piece) if slots == context else (0, min(context - 1, last))
    start = context - 1 - pieces * piece - alone
    position = jnp.arange(context, dtype=jnp.int32)

    def read(state, here):
        x, position = here
        return candidate.mixer.step(params, state, x, Tokens(position, jnp.zeros_like(position)))[0], None

    def over(state, first, count, size):
        cut = slice(first, first + count * size)
        return jax.lax.scan(read, state, (x[cut].reshape(count, size, -1), position[cut].reshape(count, size)))[0]

    state = candidate.mixer.init_state(params, slots)
    state = over(state, start, pieces, piece) if pieces else state
    return jax.jit(over, static_argnums=(1, 2, 3))(state, start + pieces * piece, alone, 1) if alone else state


def last_token(candidate: Candidate, params, x, state, allowed: float, most: float = MOST) -> dict:
    """The verdict on the last token by a filled state, against `apply` to all tokens in the same precision.

    Args:
      candidate, params, x, state: a mixer, its parameters, all tokens, and what `filled` made of them.
      allowed: the error that a result may have, which here both sides may.
      most: bytes for `apply`; where it needs more, half the context is compared, or a half of that.
    """
    context = len(x)
    apply = jax.jit(candidate.definition).lower(params, x).compile()
    if cost.memory(apply)["total"] > most and context > 1:
        half = x[: context // 2]
        return last_token(candidate, params, half, filled(candidate, params, half, len(half)), allowed, most)
    found = candidate.mixer.step(params, state, x[-1:], _at(context - 1))[1][0]
    error = check.worst(found, apply(params, x)[-1])[0]
    errors = {"context": context, "error": error, "where": "the last", "allowed": 2 * allowed}
    return errors | check.judged(errors, f"of {context} tokens")


def _at(position) -> Tokens:
    """Where one token stands."""
    return Tokens(jnp.full(1, position, jnp.int32), jnp.zeros(1, jnp.int32))


def _figures(found, samples, clock, batch, peak):
    figures = {name: value for name, value in found.items() if name not in ("run", "compile")}
    if not samples:
        return figures
    time = protocol.summary(samples, found["compile"], clock)
    read = batch * found["bytes"]["read"]
    figures["time"] = time | {"token": time["median"] / batch}
    figures["bytes"] = found["bytes"] | {"rate": read / time["median"]}
    figures["roofline"] = cost.roofline(found["flops"]["executed"], read, time["median"], peak)
    return figures
