r"""Beam search: the likeliest continuation that a few hypotheses, kept side by side, can find.

    score(y) = log P(y | prompt) / |y|^α
    repeat  candidates = every hypothesis extended by every token, and those that have ended as they are
            hypotheses = the best b candidates by score
    until   all have ended, or `max_new_tokens`, or the end of the context

With b = 1 it is greedy generation. With b as large as the number of all continuations nothing is ever dropped, and the
result is the best of all. In between it promises neither: a wider beam may end with a worse score than a narrower one,
for a hypothesis dropped early may have led further.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from minilm.generation import check_prompts, read_prompts

_CANDIDATES = 2**31 - 1  # that JAX can number, of which each beam brings as many as there are tokens


class Hypothesis(NamedTuple):
    """A continuation, without the prompt and without its end-of-text token, and its score."""

    tokens: np.ndarray
    score: float


class Beam(NamedTuple):
    """What the loop carries: b hypotheses with room for s tokens each, the prompt's included."""

    state: Any  # the model's own, with a leading axis b
    tokens: Int[Array, "b s"]
    length: Int[Array, " b"]
    log_p: Float[Array, " b"]
    ended: Bool[Array, " b"]


def beam_search(
    model,
    params,
    config,
    prompt,
    *,
    beams: int,
    max_new_tokens: int,
    length_penalty: float = 0.0,
    end_token: int | None = None,
) -> list[Hypothesis]:
    r"""The hypotheses of the last step, the best one first.

    $$ \mathrm{score}(y) = \frac{1}{|y|^{\alpha}} \sum_{i=1}^{|y|} \log P(y_i \mid \text{prompt}, y_{<i}) $$

    |y| counts the end-of-text token where there is one, as the sum does. With α = 0 scores are log-probabilities, which
    favour short texts; with α = 1 they are means, Hugging Face's default. Wu et al. divide by ((5 + |y|) / 6)^α.

    Args:
      model: a namespace with `init_state` and `step`.
      params, config: its parameters and hyper-parameters.
      prompt: token ids.
      beams: b, how many hypotheses are kept.
      max_new_tokens: the longest |y|; the end of the context may come before it.
      length_penalty: α.
      end_token: the id that ends a hypothesis.
    Returns:
      at most `beams` hypotheses; fewer where fewer exist.
    Raises:
      ValueError: for a prompt that cannot be continued, or senseless settings.

    Paper: arXiv:1609.08144 (length penalty).
    """
    [prompt] = check_prompts([prompt], config.vocab_size, config.context_length)
    _check_settings(beams, max_new_tokens, length_penalty, config.vocab_size)
    s = config.context_length
    steps = min(max_new_tokens, s - len(prompt))
    tokens = np.zeros((1, s), np.int32)
    tokens[0, : len(prompt)] = prompt
    length = np.array([len(prompt)], np.int32)
    state = read_prompts(model, config, params, tokens, length - 1)
    options = (np.float32(length_penalty), np.int32(-1 if end_token is None else end_token))
    beam = _continue(model, config, beams, params, state, tokens, length, steps, *options)
    return _hypotheses(beam, len(prompt), length_penalty, end_token)


def translate(
    model,
    params,
    config,
    source,
    source_length,
    *,
    max_new_tokens: int,
    beams: int = 1,
    length_penalty: float = 0.0,
    boundary: int = 0,
) -> list[list[Hypothesis]]:
    r"""What a model that reads one text and writes another writes of each source, the best hypothesis first.

    $$ \mathrm{score}(y) = \frac{1}{|y|^{\alpha}} \sum_{i=1}^{|y|} \log P(y_i \mid \text{source}, y_{<i}) $$

    One beam is greedy: at every step the likeliest token. All sources are searched at once, each by itself.

    Args:
      model: a namespace with `read` and `step`, such as `minilm.models.seq2seq`.
      params, config: its parameters and hyper-parameters.
      source: token ids `(b, s)`.
      source_length: how many of each row count, `(b,)`.
      max_new_tokens: the longest |y|, the boundary that ends it included.
      beams: how many hypotheses are kept for each source.
      length_penalty: α.
      boundary: the id that the decoder is told first, and that ends what it writes.
    Returns:
      for each source at most `beams` hypotheses, without the boundary.
    Raises:
      ValueError: lengths that are not those of the sources, or senseless settings.
    """
    _check_settings(beams, max_new_tokens, length_penalty, config.vocab_size)
    source, source_length = np.asarray(source), np.asarray(source_length)
    fit = source.ndim == 2 and source.shape[1] > 0 and source_length.shape == source.shape[:1]
    if not fit or ((source_length < 0) | (source_length > source.shape[1])).any():
        raise ValueError(
            f"expected sources (b, s) and for each of them a length of at most s, got {source.shape} and lengths "
            f"{source_length.shape} up to {source_length.max(initial=0)}: pad the sources (minilm.data.pairs.pad)."
        )
    if not 0 <= boundary < config.vocab_size:
        raise ValueError(f"The boundary must be one of the target's {config.vocab_size} ids, and is {boundary}.")
    options = (np.float32(length_penalty), np.int32(boundary))
    found = _translate(model, config, beams, max_new_tokens, params, source, source_length, *options)
    rows = (Beam(None, *row) for row in zip(*map(np.asarray, found), strict=True))
    if np.isnan(np.asarray(found[2])).any():
        raise ValueError("The model gives scores that are not numbers: is a source's id beyond its vocabulary?")
    return [_hypotheses(row, 1, length_penalty, boundary) for row in rows]


def search(step, state, tokens, length, steps, *, beams: int, length_penalty=0.0, end_token=-1) -> Beam:
    """The loop, for any model: to be called in compiled code, and for many prompts under `jax.vmap`.

    Args:
      step: `(state, token, position) -> (state, logits)`, one token of one hypothesis; at position −1 it is padding.
      state: the model's, before the prompt's last token, without leading axis.
      tokens: `(s,)`, the prompt and room for what follows.
      length: how long the prompt is.
      steps: how many tokens follow at most.
      beams: b.
      length_penalty: α.
      end_token: the id that ends a hypothesis, −1 for none.
    Returns:
      the hypotheses of the last step; one of probability 0 (log_p −∞) is none.
    """

    def extend(beam: Beam) -> Beam:
        position = jnp.where(beam.ended, -1, beam.length - 1)  # for a hypothesis that has ended the step is padding
        last = jnp.take_along_axis(beam.tokens, beam.length[:, None] - 1, axis=1)[:, 0]
        state, logits = jax.vmap(step)(beam.state, last, position)
        log_p = jax.nn.log_softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)))
        n = log_p.shape[-1]
        # A hypothesis that has ended has one candidate, itself, which stands in the column of token 0.
        itself = jnp.where(jnp.arange(n) == 0, 0.0, -jnp.inf)
        candidates = beam.log_p[:, None] + jnp.where(beam.ended[:, None], itself, log_p)
        new_length = beam.length + ~beam.ended
        scores = _score(candidates, (new_length - length)[:, None], length_penalty)
        _, best = jax.lax.top_k(scores.reshape(-1), beams)
        parent, token = best // n, (best % n).astype(jnp.int32)
        kept: Beam = jax.tree.map(lambda leaf: leaf[parent], beam._replace(state=state))
        place = jnp.where(kept.ended, beam.tokens.shape[1], kept.length)
        return Beam(
            state=kept.state,
            tokens=kept.tokens.at[jnp.arange(beams), place].set(token, mode="drop"),
            length=new_length[parent],
            log_p=candidates.reshape(-1)[best],
            ended=kept.ended | (token == end_token),
        )

    def unfinished(carry):
        step, beam = carry
        return (step < steps) & ~beam.ended.all()

    # All begin alike, so only the first is possible: the others' probability is 0.
    logits = jax.eval_shape(step, state, tokens[0], length)[1]
    first = jnp.where(jnp.arange(beams) == 0, 0.0, -jnp.inf).astype(jnp.promote_types(logits.dtype, jnp.float32))
    copies = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (beams, *leaf.shape)), (state, tokens, length))
    beam = Beam(*copies, log_p=first, ended=jnp.zeros(beams, bool))
    return jax.lax.while_loop(unfinished, lambda carry: (carry[0] + 1, extend(carry[1])), (0, beam))[1]


@partial(jax.jit, static_argnames=("model", "config", "beams"))
def _continue(model, config, beams, params, state, tokens, length, steps, length_penalty, end_token) -> Beam:
    def step(state, token, position):
        state, logits = model.step(params, state, token[None], position[None], config=config)
        return state, logits[0]

    state = jax.tree.map(lambda leaf: leaf[0], state)
    options = {"beams": beams, "length_penalty": length_penalty, "end_token": end_token}
    return search(step, state, tokens[0], length[0], steps, **options)


@partial(jax.jit, static_argnames=("model", "config", "beams", "steps"))
def _translate(model, config, beams, steps, params, source, source_length, length_penalty, boundary):
    """The beams without their states, with a leading axis for the sources."""

    def one(memory, state):
        def step(state, token, position):
            return model.step(params, memory, state, token, config=config)

        tokens = jnp.zeros(1 + steps, jnp.int32).at[0].set(boundary)
        options = {"beams": beams, "length_penalty": length_penalty, "end_token": boundary}
        return search(step, state, tokens, jnp.int32(1), steps, **options)[1:]

    return jax.vmap(one)(*model.read(params, source, source_length, config=config))


def _check_settings(beams, max_new_tokens, length_penalty, vocab_size):
    for name, value in (("beams", beams), ("max_new_tokens", max_new_tokens)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, and is {value}.")
    if beams > (most := _CANDIDATES // vocab_size):
        raise ValueError(f"beams must be at most {most} with a vocabulary of {vocab_size} tokens, and is {beams}.")
    if not 0 <= length_penalty < float("inf"):
        raise ValueError(f"length_penalty must be 0 (none) or more, and is {length_penalty:g}.")


def _hypotheses(beam, prompt_length, length_penalty, end_token):
    """What a beam holds, on the host, in the order of the scores."""
    scores = np.asarray(_score(beam.log_p, beam.length - prompt_length, length_penalty))
    order = [row for row in np.argsort(-scores, kind="stable") if np.isfinite(scores[row])]
    found = [np.asarray(beam.tokens[row, prompt_length : beam.length[row]]) for row in order]
    return [Hypothesis(_written(new, end_token), float(scores[row])) for new, row in zip(found, order, strict=True)]


def _score(log_p, length, length_penalty):
    return log_p / length**length_penalty


def _written(tokens, end_token):
    return tokens[:-1] if tokens[-1] == end_token else tokens
