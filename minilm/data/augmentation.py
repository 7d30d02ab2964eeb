r"""More texts out of those there are: words left out, exchanged or replaced at random, a little in every epoch anew.

A model that sees each sentence as it is learns the sentence; one that sees it with holes learns what the holes may
hold. The draws are functions of (seed, step), as all of minilm's are, so that a resumed run is the run: number the
texts of a run, step · batch size + row say, and give that as the step.

Deletion and swaps are places to index with, so that what belongs to the tokens goes with them:

    kept = deletion(len(tokens), 0.1, seed, step)
    tokens, tags = tokens[kept], tags[kept]

Only as much as keeps the label true: "not" left out of "not good" makes a wrong example. Wei and Zou
(arXiv:1901.11196) take one word in ten, and gain where there are hundreds of texts, hardly where there are thousands.
"""

import numpy as np


def deletion(length: int, rate: float, seed: int, step: int) -> np.ndarray:
    r"""The places that stay where each is left out with a probability; one at least stays.

    $$ m_j \sim \mathrm{Bernoulli}(1 - \text{rate}), \qquad \text{places} = \{ j : m_j = 1 \} $$

    Args:
      length: of the text, in tokens.
      rate: how often a token is left out, from 0 to 1.
      seed: of the run.
      step: a number of its own for each text of the run.
    Returns:
      The places in rising order, int64. Where all would go, one of them stays, each as likely as the others.

    >>> deletion(8, 0.25, seed=0, step=2).tolist()
    [0, 2, 3, 5, 6, 7]
    """
    random = _generator(seed, step, "deletion")
    kept = np.flatnonzero(random.random(length) >= _checked(rate))
    return kept if kept.size or not length else random.integers(length, size=1)


def swaps(length: int, rate: float, seed: int, step: int) -> np.ndarray:
    """The places after some pairs of them, one pair after the other, have been exchanged.

    Args:
      length: of the text, in tokens.
      rate: exchanges for each token, from 0 to 1: `round(rate * length)` pairs are drawn among all of them, so that
        about twice as many tokens stand elsewhere.
      seed: of the run.
      step: a number of its own for each text of the run.
    Returns:
      A permutation of `range(length)`, int64.

    >>> swaps(8, 0.25, seed=0, step=2).tolist()
    [7, 1, 4, 3, 2, 5, 6, 0]
    """
    random = _generator(seed, step, "swaps")
    places = np.arange(length)
    if length > 1:
        for _ in range(round(_checked(rate) * length)):
            i, j = random.choice(length, size=2, replace=False)
            places[[i, j]] = places[[j, i]]
    return places


def replacement(tokens: np.ndarray, rate: float, token: int, seed: int, step: int) -> np.ndarray:
    r"""Each token replaced by one and the same, an unknown or a mask, with a probability: word dropout.

    $$ x'_j = \begin{cases} \text{token} & \text{with probability rate} \\ x_j & \text{else} \end{cases} $$

    Bowman et al. (arXiv:1511.06349) make a decoder listen to its encoder by it; Xie et al. call it blank noise.

    Args:
      tokens: `(t,)` ids.
      rate: how often a token is replaced, from 0 to 1.
      token: the id that replaces it.
      seed: of the run.
      step: a number of its own for each text of the run.
    Returns:
      `(t,)` ids, a new array of the same dtype.

    >>> replacement(np.arange(1, 9), 0.25, 0, seed=0, step=2).tolist()
    [1, 2, 3, 4, 5, 6, 0, 8]
    """
    chosen = _generator(seed, step, "replacement").random(len(tokens)) < _checked(rate)
    return np.where(chosen, np.asarray(token, tokens.dtype), tokens)


def unigram_replacement(tokens: np.ndarray, rate: float, counts: np.ndarray, seed: int, step: int) -> np.ndarray:
    r"""Each token replaced, with a probability, by one drawn as often as it occurs (*unigram noise*).

    $$ x'_j \sim (1 - \text{rate})\, \delta_{x_j} + \text{rate} \cdot \frac{c}{\sum_w c_w} $$

    To counts it does what interpolation with shorter contexts does, as Xie et al. (arXiv:1703.02573) derive: no context
    is believed wholly.

    Args:
      tokens: `(t,)` ids.
      rate: how often a token is drawn anew, from 0 to 1.
      counts: `(n,)`, how often each id occurs, as `Vocabulary.counts`; an id of count 0 is never drawn.
      seed: of the run.
      step: a number of its own for each text of the run.
    Returns:
      `(t,)` ids, a new array of the same dtype.

    >>> unigram_replacement(np.arange(1, 9), 0.25, np.array([0, 5, 3, 2]), seed=0, step=2).tolist()
    [1, 2, 1, 4, 1, 6, 2, 2]
    """
    total = np.asarray(counts, float).cumsum()
    if not total.size or not total[-1] > 0 or np.min(counts) < 0:
        raise ValueError(
            "To draw tokens as often as they occur, counts must be given that are none below 0, one above."
        )
    random = _generator(seed, step, "unigram replacement")
    chosen = random.random(len(tokens)) < _checked(rate)
    drawn = np.searchsorted(total, random.random(len(tokens)) * total[-1], side="right")
    return np.where(chosen, drawn.astype(tokens.dtype), tokens)


def _generator(seed, step, what):
    """A stream for each kind, so that what is left out and what is replaced in the same step have nothing in common."""
    if seed < 0 or step < 0:
        raise ValueError(f"A seed and a step are whole numbers from 0 on, but here they are {seed} and {step}.")
    return np.random.default_rng([seed, step, *what.encode()])


def _checked(rate):
    if not 0 <= rate <= 1:
        raise ValueError(f"A rate from 0 to 1 was expected, the share of the tokens, but it is {rate}.")
    return rate
