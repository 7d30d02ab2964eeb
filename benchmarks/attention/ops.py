"""What does attention over whole sequences cost? Cores and mixers, checked, then timed in turn at growing lengths.

Batch 1. A core is the attention between heads that are given, `width / heads` wide; a mixer is a variant with its
projections, as a block of a model of that width takes it. `list` names all of both.

    minilm bench attention ops                                             four cores, 512 to 2,048 tokens
    minilm bench attention ops --cores dense:window=256,blockwise:window=256 --lengths 1k..8k
    minilm bench attention ops --variants mha,gated-delta-net --width 256 --heads 4 --modes fwd,fwdbwd,prefill
"""

from dataclasses import replace

from benchmarks.attention import check, cores, cost, options, protocol, record, views
from benchmarks.attention.candidates import Candidate, Spec, mixer, prefilling
from minilm.flags import UsageError

DEFAULT = ["dense", "blockwise", "ssd", "delta"]


def main(words: list[str]) -> int:
    """Read the options, and run."""
    parser = options.Parser("ops", __doc__)
    add = parser.add_argument
    add("--cores", type=options.names, metavar="NAMES", help="cores with their options, or none (default: four)")
    add("--variants", "--variant", type=options.names, action="append", metavar="NAMES", help="mixers with options")
    add("--lengths", type=options.lengths, default=[512, 1024, 2048], help="512,1k,2k or 512..4k (default: 512..2k)")
    add("--modes", type=options.modes, default=["fwd"], help="of fwd, fwdbwd, prefill (default: fwd)")
    add("--heads", type=options.positive, default=8, help="query heads (default: 8)")
    add("--width", type=options.positive, default=512, help="of all heads together (default: 512)")
    add("--dtype", type=options.dtypes, default=["float32"], help="f32, bf16 or both (default: f32)")
    add("--budget", type=options.seconds, default=60.0, help="seconds for all timing (default: 60)")
    add("--memory", type=options.gigabytes, default=8.0, help="gigabytes beyond which nothing is run (default: 8)")
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
    """The cores and mixers of a command line, or a `UsageError`."""
    width = options.head_width(chosen.width, chosen.heads)
    texts = [text for group in chosen.variants or [] for text in group]
    of_cores = chosen.cores if chosen.cores is not None else ([] if texts else DEFAULT)
    made = [cores.make(text, chosen.heads, width) for text in of_cores if text != "none"]
    try:
        made += [mixer(text, chosen.width, chosen.heads) for text in texts]
    except ValueError as error:
        raise UsageError(str(error)) from None
    if not made:
        raise UsageError("There is nothing to measure: name a core or a variant, of those that `list` shows.")
    return made


def measured(candidates, chosen) -> list[dict]:
    """A row for each candidate, length, mode and dtype; rows that differ in the candidate alone are timed in turn."""
    return record.collected(_measured(candidates, chosen), chosen.out, views.progress)


def _measured(candidates, chosen):
    import jax

    timer, verdicts = protocol.timer(chosen.accelerator), {}
    platform, peak = jax.default_backend(), None if chosen.accelerator else cost.peak(timer.clock)
    groups = [(t, mode, dtype) for dtype in chosen.dtype for mode in chosen.modes for t in chosen.lengths]
    share = chosen.budget / len(groups)
    for length, mode, dtype in groups:
        where = record.environment(chosen.command)
        prepared = {}
        for candidate in candidates:
            spec = Spec(dtype, mode, platform, length)
            sizes = {"length": length, "heads": chosen.heads, "width": chosen.width}
            head = (where, candidate, spec, sizes)
            try:
                found = _prepared(candidate, spec, length, verdicts, chosen.memory * 1e9)
            except Exception as error:  # whatever a candidate does, the others are still measured
                found = protocol.failure(error)
            prepared[candidate.kind, candidate.name] = (head, found)
        runs = {key: found["run"] for key, (_, found) in prepared.items() if "run" in found}
        times, failed = protocol.settled_times(runs, seconds=share, timer=timer)
        for key, (head, found) in prepared.items():
            found = found | failed.get(key, {})
            yield _row(head, found, times.get(key), timer.name, peak)


def _prepared(candidate, spec, length, verdicts, most):
    """A program ready to be timed, with what is known of it before; or a status with its reason."""
    import jax

    both, filling, whole = spec.mode == "fwdbwd", spec.mode == "prefill", candidate
    candidate = prefilling(whole) if filling else whole
    reason = candidate.supports(spec)
    if reason:
        return {"status": "unsupported", "reason": reason}
    alone = replace(candidate, function=lambda *inputs: candidate.function(*inputs)[0]) if filling else candidate
    # The result first, which may be checked over more tokens; and by both forms, for a step agrees with itself.
    for asked, mode in ((whole, "fwd"), *[(whole, "fwdbwd")] * both, *[(alone, "fwd")] * filling):
        checked = min(length, candidate.checked_backward if mode == "fwdbwd" else candidate.checked)
        key = (candidate.kind, candidate.name, mode, asked is whole, spec.dtype, checked)
        if key not in verdicts:
            verdicts[key] = check.check(asked, mode, spec.dtype, checked)
        verdict = verdicts[key]
        if not verdict["passed"]:
            return {"status": "wrong", "reason": verdict["reason"], "check": verdict}
    function = check.with_gradients(candidate.function) if both else candidate.function
    inputs = check.arguments(alone, "normal", length, mode, spec.dtype)
    program, seconds = protocol.compiled(function, inputs)
    memory = cost.memory(program)
    found = {"check": verdict, "memory": memory, "flops": cost.flops(candidate, function, inputs, length, mode)}
    if memory["total"] > most:
        reason = f"the compiled program needs {memory['total'] / 1e9:.3g} GB, and --memory allows {most / 1e9:.3g}"
        return found | {"status": "oom", "reason": reason}
    try:
        jax.block_until_ready(program(*inputs))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return found | {"status": "oom", "reason": str(error).splitlines()[0]}
    if length > checked:
        result = (lambda *inputs: program(*inputs)[0]) if filling else program
        long = check.check_long(alone, result, mode, spec.dtype, length)
        found["check"] = verdict | {"long": long}
        if not long["passed"]:
            return found | {"status": "wrong", "reason": long["reason"]}
    if filling:
        after = check.next_token(candidate, program(*inputs)[1], spec.dtype, length, verdict["laws"])
        if not after["passed"]:
            return found | {"status": "wrong", "reason": after["reason"]}
    return found | {"run": lambda: jax.block_until_ready(program(*inputs)), "compile": seconds}


def _row(head, found, samples, clock, peak):
    where, candidate, spec, sizes = head
    figures = {name: value for name, value in found.items() if name not in ("run", "compile")}
    if samples:
        figures["time"] = protocol.summary(samples, found["compile"], clock)
        moved = found["memory"]["arguments"] + found["memory"]["results"]
        flops = found["flops"]
        work = flops["executed"] if candidate.kind == "mixer" else flops["useful"]
        figures["bytes"] = {"io": moved}
        figures["roofline"] = cost.roofline(work, moved, figures["time"]["median"], peak)
    return record.row("ops", where, candidate, mode=spec.mode, sizes=sizes, dtype=spec.dtype, **figures)
