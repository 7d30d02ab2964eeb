r"""Generation: a compiled loop that draws one token after the other, and the text that comes out of it.

    state = read(prompt, all but its last token)
    repeat  state, z = step(state, last token)         one token in, logits out
            token ~ constrain(z)                       `minilm.sampling`
    until   the end-of-text token, a stop string, `max_new_tokens`, or the end of the context

All shapes are static. A prompt is read in chunks of one size, and the loop works on buffers as long as the context, so
that each is compiled once for a model and a number of prompts: whatever the prompts' lengths, the sampler's settings
and the number of tokens. A prompt and what is written after it never exceed `config.context_length` together: learned
positions end there, and a cache that rolled on would make positions mean something else. Generation stops when the
context is full, and a prompt that leaves no room for one more token is refused.

Models come in as namespaces with `init_state(params, size, *, config)` and `step(params, state, tokens, position, *,
config)`.
"""

from collections.abc import Generator, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from minilm.sampling import GREEDY, Sampler, check_sampler, sample
from minilm.text_stream import TextStream

CHUNK = 64  # tokens of a prompt that are read at once
Reason = Literal["end", "stop", "length", "context"]


class Progress(NamedTuple):
    """What the loop carries, for a batch of b sequences with room for s tokens each."""

    state: Any  # the model's own, with a leading axis b
    tokens: Int[Array, "b s"]
    length: Int[Array, " b"]
    limit: Int[Array, " b"]  # the length at which a sequence is done
    seen: Bool[Array, "b n"]  # the tokens that a sequence holds, for the repetition penalty
    done: Bool[Array, " b"]
    keys: jax.Array  # (b,): a sequence draws by its own key, so that its neighbours do not matter


def start(model, params, config, prompts: Sequence, *, max_new_tokens: int, key=None) -> Progress:
    """Check the prompts and read them, all but their last tokens, which the loop reads first.

    Args:
      model: a namespace with `init_state` and `step`.
      params: its parameters.
      config: its hyper-parameters, with `vocab_size` and `context_length`.
      prompts: b sequences of token ids, of any lengths.
      max_new_tokens: at most so many are drawn for each.
      key: one random key, from which each prompt gets its own by its place, or b keys.
    Returns:
      what `advance` goes on from.
    Raises:
      ValueError: for a prompt that is empty, too long or holds ids that the model does not have, and for other keys.
    """
    prompts = check_prompts(prompts, config.vocab_size, config.context_length)
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, and is {max_new_tokens}.")
    b, s = len(prompts), config.context_length
    tokens, seen = np.zeros((b, s), np.int32), np.zeros((b, config.vocab_size), bool)
    length = np.array([len(prompt) for prompt in prompts], np.int32)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = prompt
        seen[row, prompt] = True
    keys = _row_keys(key, b)
    limit = np.minimum(length + min(max_new_tokens, s), s).astype(np.int32)
    state = read_prompts(model, config, params, tokens, length - 1)
    tokens, length, limit, seen = map(jnp.asarray, (tokens, length, limit, seen))
    return Progress(state, tokens, length, limit, seen, done=jnp.zeros(b, bool), keys=keys)


def _row_keys(key, b):
    key = jax.random.key(0) if key is None else key
    kind, shape = getattr(key, "dtype", type(key)), np.shape(key)
    if not (hasattr(key, "dtype") and jnp.issubdtype(kind, jax.dtypes.prng_key) and shape in ((), (b,))):
        raise ValueError(f"The key must be one of jax.random.key, or {b}, one for each prompt; it is {kind} {shape}.")
    # A copy, for the loop uses its memory up, and the caller's keys are the caller's.
    return jnp.copy(key) if shape else jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(b))


def check_prompts(prompts, vocab_size: int, context_length: int) -> list[np.ndarray]:
    """The prompts as arrays of ids, or a ValueError that says which of them cannot be continued, and why."""
    if not len(prompts):
        raise ValueError("There is nothing to continue: give at least one prompt.")
    checked = []
    for row, prompt in enumerate(prompts):
        ids = np.asarray(prompt)
        name = "The prompt" if len(prompts) == 1 else f"Prompt {row + 1} of {len(prompts)}"
        if ids.ndim != 1 or not ids.size:
            raise ValueError(f"{name} has no tokens: begin with the end-of-text token to write from nothing.")
        if ids.dtype.kind not in "iu":
            raise ValueError(f"{name} must be a list of token ids, which are whole numbers, and holds {ids.dtype}.")
        if ids.min() < 0 or ids.max() >= vocab_size:
            wrong = ids[(ids < 0) | (ids >= vocab_size)][0]
            raise ValueError(
                f"{name} holds the token id {wrong}, and this model knows ids from 0 to {vocab_size - 1}: "
                "was it encoded by another tokenizer?"
            )
        if ids.size >= context_length:
            raise ValueError(
                f"{name} has {ids.size} tokens, and the model's context of {context_length} must hold it and at least "
                f"one more: shorten it to {context_length - 1} tokens or fewer."
            )
        checked.append(ids.astype(np.int32))
    return checked


def read_prompts(model, config, params, tokens: np.ndarray, length: np.ndarray):
    """The model's state after the first `length` of each row of tokens, read in chunks of one size."""
    b, s = tokens.shape
    chunk = min(CHUNK, s)
    state = _empty_state(model, config, params, b)
    for first in range(0, int(length.max()), chunk):
        # The last chunk may hang over the end of the context: there, and past a row's own length, is padding.
        index = np.arange(first, first + chunk)
        position = np.where(index < length[:, None], index, -1).astype(np.int32)
        state = _read(model, config, params, state, tokens[:, np.minimum(index, s - 1)], position)
    return state


@partial(jax.jit, static_argnames=("model", "config", "b"))
def _empty_state(model, config, params, b):
    one = model.init_state(params, config.context_length, config=config)
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (b, *leaf.shape)), one)


@partial(jax.jit, static_argnames=("model", "config"), donate_argnames="state")
def _read(model, config, params, state, tokens, position):
    # The logits are not used, and the compiler leaves the product with the vocabulary out.
    return jax.vmap(lambda *row: model.step(params, *row, config=config)[0])(state, tokens, position)


@partial(jax.jit, static_argnames=("model", "config"), donate_argnames="progress")
def advance(model, config, params, sampler: Sampler, end_token, progress: Progress, steps) -> Progress:
    """Draw up to `steps` more tokens for every sequence that is not done.

    How often it is called, and with how many steps, does not change what is drawn: a token is a function of the key,
    the sequence's own tokens and its length. The progress that went in is used up.

    Args:
      model, config, params: as for `start`.
      sampler: settings that `check_sampler` returned.
      end_token: the id that ends a sequence, −1 for none.
      progress: where the sequences stand.
      steps: how many tokens, a number that may change without a new compilation.
    """

    def one_token(row: Progress) -> Progress:
        position = jnp.where(row.done, -1, row.length - 1)  # for a sequence that is done the step is padding
        last = row.tokens[row.length - 1]
        state, logits = model.step(params, row.state, last[None], position[None], config=config)
        token = sample(jax.random.fold_in(row.keys, row.length), logits[0], row.seen, sampler)
        length = jnp.where(row.done, row.length, row.length + 1)
        return Progress(
            state=state,
            tokens=jnp.where(row.done, row.tokens, row.tokens.at[row.length].set(token, mode="drop")),
            length=length,
            limit=row.limit,
            seen=jnp.where(row.done, row.seen, row.seen.at[token].set(True)),
            done=row.done | (token == end_token) | (length >= row.limit),
            keys=row.keys,
        )

    def unfinished(carry):
        step, progress = carry
        return (step < steps) & ~progress.done.all()

    def body(carry):
        step, progress = carry
        return step + 1, jax.vmap(one_token)(progress)

    return jax.lax.while_loop(unfinished, body, (0, progress))[1]


def generate(
    model,
    params,
    config,
    prompts: Sequence,
    *,
    max_new_tokens: int,
    sampler: Sampler = GREEDY,
    key=None,
    end_token: int | None = None,
) -> list[np.ndarray]:
    """Continue each of a batch of prompts of any lengths, in one run of the compiled loop.

    Args:
      model, params, config, prompts, max_new_tokens, key: as for `start`. A sampler that draws needs a key.
      sampler: how to choose; by default always the likeliest token.
      end_token: the id after which a sequence is done; it is not returned.
    Returns:
      the new tokens of each prompt, `max_new_tokens` or fewer.
    """
    sampler, params = check_draw(sampler, key), _on_device(params)
    progress = start(model, params, config, prompts, max_new_tokens=max_new_tokens, key=key)
    steps = min(max_new_tokens, config.context_length)
    progress = advance(model, config, params, sampler, _id(end_token), progress, steps)
    rows = zip(np.asarray(progress.tokens), prompts, progress.length, strict=True)
    new = (row[len(prompt) : n] for row, prompt, n in rows)
    return [tokens[:-1] if tokens[-1] == end_token else tokens for tokens in new]


def stream(
    model, params, config, prompt, *, max_new_tokens, sampler=GREEDY, key=None, end_token=None
) -> Generator[int, None, Reason]:
    """The tokens that `generate` gives for one prompt, each as soon as it is drawn.

    The generator's return value says why it ended: "end" (the model's own end-of-text token), "length"
    (`max_new_tokens`) or "context" (it is full).
    """
    sampler, params = check_draw(sampler, key), _on_device(params)
    progress = start(model, params, config, [prompt], max_new_tokens=max_new_tokens, key=key)
    for length in range(len(prompt), config.context_length):
        progress = advance(model, config, params, sampler, _id(end_token), progress, 1)
        token, done = int(progress.tokens[0, length]), bool(progress.done[0])
        if token == end_token:
            return "end"
        yield token
        if done:
            return "length" if length + 1 - len(prompt) == max_new_tokens else "context"
    raise AssertionError("unreachable: a sequence is done when its context is full")


def stream_text(
    model,
    params,
    config,
    tokenizer,
    prompt: str,
    *,
    max_new_tokens: int,
    sampler: Sampler = GREEDY,
    key=None,
    stop: Sequence[str] = (),
) -> Generator[str, None, Reason]:
    """Continue a text, and yield what is written as soon as it is certain: never half a character or stop string.

    Args:
      model, params, config, max_new_tokens, sampler, key: as for `generate`.
      tokenizer: one of `minilm.data.tokenizers`; its end-of-text token ends the text.
      prompt: the text to continue; an empty one starts a new document, after the end-of-text token.
      stop: strings of which the first to be complete ends the text; it is not part of it. It may begin and end
        within tokens.
    Yields:
      pieces of text.
    Returns:
      the reason for the end: as for `stream`, or "stop".
    """
    text = TextStream(tokenizer, stop)
    options = {"max_new_tokens": max_new_tokens, "sampler": sampler, "key": key, "end_token": tokenizer.end_of_text}
    tokens = stream(model, params, config, encode_prompt(tokenizer, prompt), **options)
    while True:
        try:
            token = next(tokens)
        except StopIteration as end:
            yield text.flush()
            return end.value
        yield text.push(token)
        if text.stopped:
            return "stop"


def generate_text(
    model,
    params,
    config,
    tokenizer,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    sampler: Sampler = GREEDY,
    key=None,
    stop: Sequence[str] = (),
) -> list[str]:
    """Continue a batch of texts; each ends where `stream_text` would end it. Arguments as there."""
    if isinstance(prompts, str):
        raise TypeError(f"To continue texts, give a list of them, and not a string, {prompts[:20]!r}.")
    sampler, params = check_draw(sampler, key), _on_device(params)
    ids = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    progress = start(model, params, config, ids, max_new_tokens=max_new_tokens, key=key)
    texts, read = [TextStream(tokenizer, stop) for _ in ids], [len(prompt) for prompt in ids]
    written, max_new_tokens = [""] * len(ids), min(max_new_tokens, config.context_length)
    while not progress.done.all():
        # Without stop strings nothing on the host can end a sequence, so the loop may run to its end.
        steps = 8 if stop else max_new_tokens
        progress = advance(model, config, params, sampler, tokenizer.end_of_text, progress, steps)
        rows = zip(np.asarray(progress.tokens), np.asarray(progress.length), strict=True)
        for row, (tokens, length) in enumerate(rows):
            new = [int(token) for token in tokens[read[row] : length] if token != tokenizer.end_of_text]
            written[row] += "".join(map(texts[row].push, new))
            read[row] = length
        progress = progress._replace(done=progress.done | np.array([text.stopped for text in texts]))
    return [text + stream.flush() for text, stream in zip(written, texts, strict=True)]


def encode_prompt(tokenizer, prompt: str) -> np.ndarray:
    """The ids of a prompt; an empty one is the end-of-text token, after which a new document begins."""
    return tokenizer.encode(prompt) if prompt else np.array([tokenizer.end_of_text], np.int32)


def check_draw(sampler: Sampler, key) -> Sampler:
    """The sampler, checked; a ValueError where it draws and has no key to draw by."""
    if key is None and sampler.temperature != 0:
        raise ValueError(f"Drawing at temperature {sampler.temperature:g} needs a random key; temperature 0 does not.")
    return check_sampler(sampler)


def _on_device(params):
    """A loaded checkpoint holds NumPy arrays, which would travel to the device again at every call."""
    return jax.tree.map(jnp.asarray, params)


def _id(end_token):
    return np.int32(-1 if end_token is None else end_token)
