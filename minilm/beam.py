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
    for name, value in (("beams", beams), ("max_new_tokens", max_new_tokens)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, and is {value}.")
    if not 0 <= length_penalty < float("inf"):
        raise ValueError(f"length_penalty must be 0 (none) or more, and is {length_penalty:g}.")
    s = config.context_length
    steps = min(max_new_tokens, s - len(prompt))
    tokens = np.zeros((1, s), np.int32)
    tokens[0, : len(prompt)] = prompt
    length = np.array([len(prompt)], np.int32)
    state = read_prompts(model, config, params, tokens, length - 1)
    options = (np.float32(length_penalty), np.int32(-1 if end_token is None else end_token))
    beam = _search(model, config, beams, params, state, tokens, length, steps, *options)
    scores = np.asarray(_score(beam.log_p, beam.length - len(prompt), length_penalty))
    order = [row for row in np.argsort(-scores, kind="stable") if np.isfinite(scores[row])]
    found = [np.asarray(beam.tokens[row, len(prompt) : beam.length[row]]) for row in order]
    return [Hypothesis(_written(new, end_token), float(scores[row])) for new, row in zip(found, order, strict=True)]


@partial(jax.jit, static_argnames=("model", "config", "beams"))
def _search(model, config, beams, params, state, tokens, length, steps, length_penalty, end_token) -> Beam:
    prompt_length = length[0]

    def extend(beam: Beam) -> Beam:
        position = jnp.where(beam.ended, -1, beam.length - 1)  # for a hypothesis that has ended the step is padding
        last = jnp.take_along_axis(beam.tokens, beam.length[:, None] - 1, axis=1)
        step = partial(model.step, params, config=config)
        state, logits = jax.vmap(step)(beam.state, last, position[:, None])
        log_p = jax.nn.log_softmax(logits[:, 0].astype(jnp.promote_types(logits.dtype, jnp.float32)))
        n = log_p.shape[-1]
        # A hypothesis that has ended has one candidate, itself, which stands in the column of token 0.
        itself = jnp.where(jnp.arange(n) == 0, 0.0, -jnp.inf)
        candidates = beam.log_p[:, None] + jnp.where(beam.ended[:, None], itself, log_p)
        new_length = beam.length + ~beam.ended
        scores = _score(candidates, (new_length - prompt_length)[:, None], length_penalty)
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
    logits = jax.vmap(partial(model.step, params, config=config))(state, tokens[:, :1], length[:, None])[1]
    first = jnp.where(jnp.arange(beams) == 0, 0.0, -jnp.inf).astype(jnp.promote_types(logits.dtype, jnp.float32))
    copies = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (beams, *leaf.shape[1:])), (state, tokens, length))
    beam = Beam(*copies, log_p=first, ended=jnp.zeros(beams, bool))
    return jax.lax.while_loop(unfinished, lambda carry: (carry[0] + 1, extend(carry[1])), (0, beam))[1]


def _score(log_p, length, length_penalty):
    return log_p / length**length_penalty


def _written(tokens, end_token):
    return tokens[:-1] if tokens[-1] == end_token else tokens
