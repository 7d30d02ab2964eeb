r"""From logits to a token: what narrows and reshapes the distribution before the draw.

Every function takes the logits of one next token, `(n,)`, and each has a neutral setting at which it changes nothing.
They are applied in the order of this page, which is Hugging Face's:

| setting              | keeps                                                       | neutral     |
|----------------------|-------------------------------------------------------------|-------------|
| `repetition_penalty` | all, and lowers what was already said                       | 1           |
| `temperature`        | all, sharpened below 1, flattened above; 0 is the argmax    | 1           |
| `top_k`              | the k largest                                               | n, or more  |
| `top_p`              | the fewest that together hold probability p                 | 1           |
| `min_p`              | what has at least p times the probability of the likeliest  | 0           |

A token that is not kept has the logit −∞. The settings are ordinary array arguments: a compiled program is not
compiled again when one of them changes. All ties are broken in favour of the smaller id, as `argmax` does.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

EVERY = np.int32(2**31 - 1)  # as `top_k`: no vocabulary is larger


class Sampler(NamedTuple):
    """The settings of a draw; the defaults are neutral, and draw from the model's own distribution."""

    temperature: Float[Array, ""] | float = 1.0
    top_k: Int[Array, ""] | int | np.integer = EVERY
    top_p: Float[Array, ""] | float = 1.0
    min_p: Float[Array, ""] | float = 0.0
    repetition_penalty: Float[Array, ""] | float = 1.0


GREEDY = Sampler(temperature=0.0)


def check_sampler(sampler: Sampler) -> Sampler:
    """The settings as arrays of fixed dtypes, or a ValueError that names the one that makes no sense."""
    temperature, k, p, minimum, penalty = (float(value) for value in sampler)
    _expect(0 <= temperature < float("inf"), "temperature", temperature, "0 (always the likeliest) or more")
    _expect(k >= 1 and k == int(k), "top_k", k, "a whole number, 1 or more")
    _expect(0 < p <= 1, "top_p", p, "above 0 and at most 1 (1 keeps every token)")
    _expect(0 <= minimum <= 1, "min_p", minimum, "between 0 (keeps every token) and 1")
    _expect(0 < penalty < float("inf"), "repetition_penalty", penalty, "above 0 (1 changes nothing)")
    f32 = np.float32
    return Sampler(f32(temperature), np.int32(min(k, EVERY)), f32(p), f32(minimum), f32(penalty))  # type: ignore[arg-type]


@jax.jit
def sample(key, logits: Float[Array, " n"], seen: Bool[Array, " n"], sampler: Sampler) -> Int[Array, ""]:
    r"""Draw the next token from what the sampler leaves of the logits.

    $$ P(j) = \mathrm{softmax}(\mathrm{constrain}(z))_j $$

    Args:
      key: the draw is a function of it.
      logits: z `(n,)`.
      seen: which tokens the sequence holds already `(n,)`, for the repetition penalty.
      sampler: the settings.
    Returns:
      the token, a scalar.

    >>> z = jnp.array([1.0, 3.0, 2.0])
    >>> int(sample(jax.random.key(0), z, jnp.zeros(3, bool), GREEDY))
    1
    """
    return jax.random.categorical(key, constrain(logits, seen, sampler)).astype(jnp.int32)


@jax.jit
def constrain(logits: Float[Array, " n"], seen: Bool[Array, " n"], sampler: Sampler) -> Float[Array, " n"]:
    """All five in the order of this page: `min_p(top_p(top_k(temperature(repetition_penalty(...)))))`.

    The last three each keep a prefix of the tokens in descending order, so one sort serves them all; and none is made
    where they are neutral, for sorting 50,000 logits takes a sixth of the time in which a small GPT-2 computes them.
    """
    z = temperature(repetition_penalty(logits, seen, sampler.repetition_penalty), sampler.temperature)

    def prefix(z):
        z = jnp.where(_in_top_k(z, sampler.top_k), z, -jnp.inf)
        z = jnp.where(_in_top_p(z, sampler.top_p), z, -jnp.inf)
        return (z > -jnp.inf) & _in_min_p(z, sampler.min_p)

    neutral = (sampler.top_k >= len(z)) & (sampler.top_p >= 1) & (sampler.min_p <= 0)
    return jax.lax.cond(neutral, lambda z: z, lambda z: _keep(z, prefix), z)


@jax.jit
def greedy(logits: Float[Array, " n"]) -> Int[Array, ""]:
    """The likeliest token, and of equals the one with the smallest id.

    >>> int(greedy(jnp.array([0.0, 2.0, 2.0])))
    1
    """
    return jnp.argmax(logits).astype(jnp.int32)


@jax.jit
def repetition_penalty(logits: Float[Array, " n"], seen: Bool[Array, " n"], penalty) -> Float[Array, " n"]:
    r"""Make what was already said less likely.

    $$ z'_j = z_j / \theta \text{ if } z_j > 0 \text{ else } z_j\, \theta, \qquad \text{for tokens } j \text{ seen} $$

    Args:
      logits: z `(n,)`.
      seen: `(n,)`; the prompt counts.
      penalty: θ; 1 changes nothing, 1.2 is the paper's.
    Returns:
      z' `(n,)`.

    The result depends on where the logits' zero lies, which the softmax does not: it is a heuristic. Paper:
    arXiv:1909.05858 (CTRL); the case of negative logits is Hugging Face's, and now everyone's.

    >>> repetition_penalty(jnp.array([4.0, -4.0, 4.0]), jnp.array([True, True, False]), 2.0).tolist()
    [2.0, -8.0, 4.0]
    """
    lowered = jnp.where(logits > 0, logits / penalty, logits * penalty)
    return jnp.where(seen, lowered, logits).astype(logits.dtype)


@jax.jit
def temperature(logits: Float[Array, " n"], T) -> Float[Array, " n"]:
    r"""Sharpen (T < 1) or flatten (T > 1) the distribution; at T = 0 its limit, all on the first of the largest.

    $$ z' = z / T $$

    Args:
      logits: z `(n,)`.
      T: the temperature, 0 or more; 1 changes nothing.
    Returns:
      z' `(n,)`.

    >>> temperature(jnp.array([1.0, 3.0, 2.0]), 0.5).tolist()
    [2.0, 6.0, 4.0]
    >>> temperature(jnp.array([1.0, 3.0, 2.0]), 0.0).tolist()
    [-inf, 0.0, -inf]
    """
    coldest = jnp.log(jax.nn.one_hot(jnp.argmax(logits), len(logits), dtype=logits.dtype))
    # A temperature near 0 would overflow to +inf: a warmth below this one is no longer told from 0.
    warm = jnp.maximum(T, 1e-6)
    return jnp.where(T < 1e-6, coldest, logits / warm).astype(logits.dtype)


@jax.jit
def top_k(logits: Float[Array, " n"], k) -> Float[Array, " n"]:
    """Keep the k largest; of equals those with the smallest ids, so that exactly min(k, n) remain.

    Hugging Face keeps all that equal the k-th. Paper: arXiv:1805.04833.

    >>> top_k(jnp.array([1.0, 3.0, 2.0, 2.0]), 2).tolist()
    [-inf, 3.0, 2.0, -inf]
    """
    return _keep(logits, lambda z: _in_top_k(z, k))


@jax.jit
def top_p(logits: Float[Array, " n"], p) -> Float[Array, " n"]:
    r"""Keep the nucleus: the fewest tokens, likeliest first, whose probabilities sum to at least p. Never none.

    $$ V = \{\, j : \textstyle\sum_{i \text{ before } j} P(i) < p \,\}, \qquad P = \mathrm{softmax}(z) $$

    Paper: arXiv:1904.09751.

    >>> jnp.isfinite(top_p(jnp.log(jnp.array([0.1, 0.6, 0.3])), 0.7)).tolist()
    [False, True, True]
    """
    return _keep(logits, lambda z: _in_top_p(z, p))


@jax.jit
def min_p(logits: Float[Array, " n"], p) -> Float[Array, " n"]:
    r"""Keep what has at least p times the probability of the likeliest.

    Many tokens remain where the model is unsure, few where it is not.

    $$ V = \{\, j : P(j) \ge p\, \max_i P(i) \,\} $$

    Paper: arXiv:2407.01082.

    >>> jnp.isfinite(min_p(jnp.log(jnp.array([0.25, 0.5, 0.0625])), 0.4)).tolist()
    [True, True, False]
    """
    return _keep(logits, lambda z: _in_min_p(z, p))


# The three, told of logits in descending order; each answers true for a prefix of them.


def _in_top_k(z, k):
    return jnp.arange(len(z)) < k


def _in_top_p(z, p):
    P = jax.nn.softmax(z)
    before = jnp.cumsum(P) - P
    # Rounded probabilities may sum to more than 1 before their end, where p = 1 promises to keep all.
    return before < jnp.where(p < 1, p, jnp.inf)


def _in_min_p(z, p):
    P = jax.nn.softmax(z)
    return p * P[0] <= P


def _keep(logits, rule):
    order = jnp.argsort(-logits, stable=True)
    kept = jnp.zeros(len(logits), bool).at[order].set(rule(logits[order]))
    return jnp.where(kept, logits, -jnp.inf)


def _expect(condition, name, value, expected):
    if not condition:
        raise ValueError(f"{name} must be {expected}, and is {value:g}.")
