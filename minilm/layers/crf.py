r"""The linear-chain conditional random field: the tags of a sequence, chosen together instead of one by one.

Every path $y = y_1 \dots y_n$ of tags has a score, made of what each position says for its tag and of what each pair of
neighbours says for the step from one to the next; its probability is the softmax over all $c^n$ paths:

$$ s(y) = b_{y_1} + \sum_{t=1}^{n} e_{t\,y_t} + \sum_{t=2}^{n} T_{y_{t-1} y_t} + f_{y_n}, \qquad
   p(y) = \frac{e^{s(y)}}{Z}, \qquad Z = \sum_y e^{s(y)} $$

The sum over the paths takes n c² steps, for paths that stand on the same tag have the same future. A transition of −∞
forbids a step, with gradients that stay finite. Written for one sequence, of which the first `length` positions
count: what stands at the others changes nothing, be it NaN. Use `jax.vmap` for several.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from minilm.layers.activation import logsumexp
from minilm.layers.recurrent.unroll import unroll


class CRFParams(NamedTuple):
    """T: from the row's tag to the column's; b and f: what a path gains by its first and its last tag."""

    transitions: Float[Array, "c c"]
    start: Float[Array, " c"]
    end: Float[Array, " c"]


def init_crf(c: int, *, dtype=jnp.float32) -> CRFParams:
    """Zeros: before it has learned anything of neighbours, the field is a softmax at each position."""
    return CRFParams(transitions=jnp.zeros((c, c), dtype), start=jnp.zeros(c, dtype), end=jnp.zeros(c, dtype))


@jax.jit
def crf_score(
    params: CRFParams,
    emissions: Float[Array, "t c"],
    tags: Integer[Array, " t"],
    length: Integer[Array, ""] | int | None = None,
) -> Float[Array, ""]:
    r"""The score of one path.

    $$ s(y) = b_{y_1} + \sum_{t=1}^{n} e_{t\,y_t} + \sum_{t=2}^{n} T_{y_{t-1} y_t} + f_{y_n} $$

    Args:
      params: T `(c, c)`, b and f `(c,)`.
      emissions: e `(t, c)`.
      tags: y `(t,)`, from 0 to c − 1; the score of a path with any other tag is NaN.
      length: n, at most t; None where nothing is padding.
    Returns:
      s, in float32 or wider. A sequence of length 0 has one path, of score 0.
    Raises:
      ValueError: emissions have no position.

    Reference: `minilm.reference.crf.crf_score`. Paper: Lafferty, McCallum and Pereira (2001).

    >>> crf_score(init_crf(2), jnp.array([[1.0, 0.0], [0.0, 3.0]]), jnp.array([0, 1])).item()
    4.0
    """
    scores, n = _checked(params, emissions, length)
    return sum(_steps(scores, tags, n)).sum()


@jax.jit
def crf_log_normalizer(
    params: CRFParams, emissions: Float[Array, "t c"], length: Integer[Array, ""] | int | None = None
) -> Float[Array, ""]:
    r"""The logarithm of the sum over all paths, by the forward algorithm.

    $$ \alpha_{1j} = b_j + e_{1j}, \qquad \alpha_{tj} = e_{tj} + \log \sum_i e^{\alpha_{t-1,i} + T_{ij}}, \qquad
       \log Z = \log \sum_j e^{\alpha_{nj} + f_j} $$

    $\alpha_{tj}$ is the logarithm of the sum over all paths that have come to tag j at position t.

    Args:
      params: T `(c, c)`, b and f `(c,)`.
      emissions: e `(t, c)`.
      length: n, at most t; None where nothing is padding.
    Returns:
      log Z, in float32 or wider: 0 for a sequence of length 0, −∞ where −∞ in the scores forbids every path.
    Raises:
      ValueError: emissions have no position.

    Reference: `minilm.reference.crf.crf_log_normalizer`. Paper: Lafferty, McCallum and Pereira (2001).

    >>> round(crf_log_normalizer(init_crf(2), jnp.zeros((3, 2))).item(), 4)  # ln 2³
    2.0794
    """
    return _log_normalizer(*_checked(params, emissions, length))


@jax.jit
def crf_log_likelihood(
    params: CRFParams,
    emissions: Float[Array, "t c"],
    tags: Integer[Array, " t"],
    length: Integer[Array, ""] | int | None = None,
) -> Float[Array, ""]:
    r"""The log-probability of one path among all; its negative is the loss of a tagger.

    $$ \log p(y) = s(y) - \log Z = -\log \sum_{y'} e^{s(y') - s(y)} $$

    The path's own score is taken off at every step of all paths, so that a likely path keeps its digits: s and log Z
    grow with n, and would leave none. The gradient with respect to every number is how often the path uses it, less how
    often all paths do on average.

    Args:
      params: T `(c, c)`, b and f `(c,)`.
      emissions: e `(t, c)`.
      tags: y `(t,)`, from 0 to c − 1; the likelihood of any other is NaN.
      length: n, at most t; None where nothing is padding.
    Returns:
      log p, in float32 or wider: 0 for a sequence of length 0, −∞ for a forbidden path.
    Raises:
      ValueError: emissions have no position.

    Reference: `minilm.reference.crf.crf_log_likelihood`. Papers: Lafferty, McCallum and Pereira (2001); on top of a
    recurrent network, arXiv:1603.01360.

    >>> round(crf_log_likelihood(init_crf(2), jnp.zeros((3, 2)), jnp.array([0, 1, 1])).item(), 4)  # −ln 2³
    -2.0794
    """
    scores, n = _checked(params, emissions, length)
    parts = jnp.stack(_steps(scores, tags, n))
    taken_off = jax.lax.stop_gradient(jnp.where(parts == -jnp.inf, 0, parts))
    others = scores.e
    for part in taken_off:  # one after the other: their sum would be rounded
        others -= part[:, None]
    return (parts - taken_off).sum() - _log_normalizer(scores._replace(e=others), n)


@jax.jit
def crf_marginals(
    params: CRFParams, emissions: Float[Array, "t c"], length: Integer[Array, ""] | int | None = None
) -> Float[Array, "t c"]:
    r"""The probability of each tag at each position, whatever the others are.

    $$ p_{tj} = P(y_t = j) = \frac{\partial \log Z}{\partial e_{tj}} $$

    The backward pass of the forward algorithm is the forward-backward algorithm.

    Args:
      params: T `(c, c)`, b and f `(c,)`.
      emissions: e `(t, c)`.
      length: n, at most t; None where nothing is padding.
    Returns:
      p `(t, c)`, in the dtype of the emissions; rows add up to 1, and are 0 from position n on.
    Raises:
      ValueError: emissions have no position.

    Reference: `minilm.reference.crf.crf_marginals`.

    >>> crf_marginals(init_crf(2), jnp.array([[0.0, 0.0], [0.0, -jnp.inf]])).tolist()
    [[0.5, 0.5], [1.0, 0.0]]
    """
    return jax.grad(crf_log_normalizer, argnums=1)(params, emissions, length)


@jax.jit
def viterbi(params: CRFParams, emissions: Float[Array, "t c"], length: Integer[Array, ""] | int | None = None):
    r"""The best path and its score.

    $$ \delta_{1j} = b_j + e_{1j}, \qquad \delta_{tj} = e_{tj} + \max_i (\delta_{t-1,i} + T_{ij}), \qquad
       \hat y_n = \arg\max_j (\delta_{nj} + f_j), \qquad \hat y_{t-1} = \arg\max_i (\delta_{t-1,i} + T_{i \hat y_t}) $$

    $\delta_{tj}$ is the score of the best path that comes to tag j at position t. Of tags as good, the first is taken.

    Args:
      params: T `(c, c)`, b and f `(c,)`.
      emissions: e `(t, c)`.
      length: n, at most t; None where nothing is padding.
    Returns:
      `(tags, score)`: ŷ `(t,)`, −1 from position n on, and s(ŷ) in float32 or wider, whose gradient is that path's.
    Raises:
      ValueError: emissions have no position.

    Reference: `minilm.reference.crf.viterbi`. Paper: Viterbi (1967).

    >>> never_alike = init_crf(2)._replace(transitions=jnp.array([[-jnp.inf, 0.0], [0.0, -jnp.inf]]))
    >>> tags, score = viterbi(never_alike, jnp.array([[2.0, 0.0], [1.0, 0.0], [3.0, 0.0]]))
    >>> tags.tolist(), score.item()
    ([0, 1, 0], 5.0)
    """
    scores, n = _checked(params, emissions, length)
    T, b, f, e = scores
    delta, best_before = unroll(_best_step, T, b + e[0], e[1:], n - 1)

    def step_back(y, inputs):
        best_before, is_inside = inputs
        y = jnp.where(is_inside, best_before[y], y)
        return y, y

    last, is_inside = jnp.argmax(delta + f), jnp.arange(len(e)) < n
    _, path = jax.lax.scan(step_back, last, (best_before, is_inside[1:]), reverse=True)
    tags = jnp.where(is_inside, jnp.append(path, last), -1)
    return tags, sum(_steps(scores, tags, n)).sum()


class _Scores(NamedTuple):
    """All that a path's score is a sum of, in float32 or wider; the emissions of padding are 0."""

    T: Float[Array, "c c"]
    b: Float[Array, " c"]
    f: Float[Array, " c"]
    e: Float[Array, "t c"]


def _checked(params, emissions, length):
    """The scores, and the length as a number."""
    if not len(emissions):
        raise ValueError("expected emissions of at least one position, got none: pad them, and give length=0.")
    n = len(emissions) if length is None else length
    e = jnp.where(jnp.arange(len(emissions))[:, None] < n, emissions, 0)
    scores = _Scores(T=params.transitions, b=params.start, f=params.end, e=e)
    return jax.tree.map(lambda leaf: leaf.astype(jnp.promote_types(e.dtype, jnp.float32)), scores), n


def _steps(scores, tags, n):
    """What a path gains at each position `(t,)`: by its tag, by coming to it, at the end by leaving; 0 in padding."""
    T, b, f, e = scores
    t, c = jnp.arange(len(e)), len(b)
    y = jnp.where(tags >= 0, tags, c)  # −1 would be the last tag; c and beyond is none, and gives NaN
    come = jnp.append(_at(b, y[:1]), _at(T, y[:-1], y[1:]))
    return tuple(
        jnp.where(where, part, 0) for where, part in ((t < n, _at(e, t, y)), (t < n, come), (t == n - 1, _at(f, y)))
    )


def _at(table, *index):
    return table.at[index].get(mode="fill", fill_value=jnp.nan)


def _log_normalizer(scores, n):
    T, b, f, e = scores
    alpha, _ = unroll(_forward_step, T, b + e[0], e[1:], n - 1)
    return jnp.where(n > 0, logsumexp(alpha + f), 0)


def _forward_step(T, alpha, e):
    alpha = e + logsumexp(alpha + T.T)
    return alpha, alpha


def _best_step(T, delta, e):
    scores = delta + T.T
    return e + scores.max(-1), scores.argmax(-1)
