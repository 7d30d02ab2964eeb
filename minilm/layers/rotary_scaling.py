"""The frequencies of rotary embedding, and how they are slowed down for texts longer than those of the training.

All are functions of numbers, computed once on the host, in NumPy's float64. Each gives the k/2 frequencies of a head of
width k, from the fastest plane to the slowest, for `position.rotate` and `attention.rotary.ScaledRotary`. With L the
trained length and f the factor by which a text may be longer, the methods differ in which planes they slow down:

| function                  | the fast planes            | the slow planes    | between                                |
|---------------------------|----------------------------|--------------------|----------------------------------------|
| `linear_frequencies`      | / f                        | / f                | / f                                    |
| `ntk_frequencies`         | as they are                | / f, the slowest   | a geometric series                     |
| `dynamic_ntk_frequencies` | as they are                | as the length asks | a geometric series                     |
| `yarn_frequencies`        | as they are (32 turns in L)| / f (1 turn in L)  | a straight line, by the plane's number |
| `llama3_frequencies`      | as they are (4 turns in L) | / f (1 turn in L)  | a straight line, by the turns          |
"""

import math

import numpy as np


def rotary_frequencies(width: int, theta: float = 10000.0) -> np.ndarray:
    r"""The frequencies of the paper: a geometric series from 1 to nearly 1/θ.

    $$ \omega_m = \theta^{-2m/k}, \qquad m = 0, \dots, k/2 - 1 $$

    Args:
      width: k of a head, even.
      theta: θ.
    Returns:
      ω `(k/2,)`.
    Raises:
      ValueError: where the width is odd.

    Reference: `minilm.reference.rotary_scaling.rotary_frequencies`. Paper: arXiv:2104.09864.

    >>> rotary_frequencies(4).round(6).tolist()
    [1.0, 0.01]
    """
    if width % 2:
        raise ValueError(f"Positions turn pairs of entries, so an even width was expected, but it is {width}; add one.")
    return theta ** (-np.arange(0, width, 2) / width)


def linear_frequencies(width: int, theta: float = 10000.0, *, factor: float) -> np.ndarray:
    r"""Position interpolation: every plane turns f times slower, so that position f L is what L was.

    $$ \omega'_m = \omega_m / f $$

    Args:
      width: k of a head, even.
      theta: θ.
      factor: f, at least 1; at 1 these are `rotary_frequencies`.
    Returns:
      ω′ `(k/2,)`.
    Raises:
      ValueError: where the factor is less than 1.

    Reference: `minilm.reference.rotary_scaling.linear_frequencies`. Paper: arXiv:2306.15595.

    >>> linear_frequencies(4, factor=4.0).round(6).tolist()
    [0.25, 0.0025]
    """
    return rotary_frequencies(width, theta) / _checked(factor)


def ntk_frequencies(width: int, theta: float = 10000.0, *, factor: float) -> np.ndarray:
    r"""A larger θ, chosen so that the slowest plane turns f times slower and the fastest as before.

    $$ \omega'_m = \left(\theta f^{k / (k - 2)}\right)^{-2m/k} $$

    Args:
      width: k of a head, even and at least 4: the only plane of 2 cannot be slow and fast.
      theta: θ.
      factor: f, at least 1; at 1 these are `rotary_frequencies`.
    Returns:
      ω′ `(k/2,)`.
    Raises:
      ValueError: where the width is 2 or the factor less than 1.

    Reference: `minilm.reference.rotary_scaling.ntk_frequencies`. Paper: arXiv:2309.00071, section 3.1.

    >>> ntk_frequencies(4, factor=4.0).round(6).tolist()
    [1.0, 0.0025]
    """
    if width == 2:
        raise ValueError("The fastest plane is kept and the slowest slowed: a width of 4 or more was expected, not 2.")
    return rotary_frequencies(width, theta * _checked(factor) ** (width / (width - 2)))


def dynamic_ntk_frequencies(
    width: int, theta: float = 10000.0, *, factor: float, length: int, trained_length: int
) -> np.ndarray:
    r"""`ntk_frequencies` of a factor that grows with the text, and is 1 up to the trained length.

    $$ \omega'_m = \left(\theta f_n^{k / (k - 2)}\right)^{-2m/k}, \qquad
       f_n = \max\left(1,\; f \frac{n}{L} - (f - 1)\right) $$

    All keys must be turned by the frequencies of one and the same length. A cache that outlives a length has to hold
    them unturned, as it does for a function around `ScaledRotary`: `lambda *heads: ScaledRotary(...)(*heads)`.

    Args:
      width: k of a head, even and at least 4.
      theta: θ.
      factor: f. The paper has 1, which makes $f_n = n / L$; Hugging Face lets it grow faster.
      length: n, of the text.
      trained_length: L.
    Returns:
      ω′ `(k/2,)`.
    Raises:
      ValueError: where the width is 2 or the factor less than 1.

    Reference: `minilm.reference.rotary_scaling.dynamic_ntk_frequencies`. Paper: arXiv:2309.00071, section 3.3.

    >>> dynamic_ntk_frequencies(4, factor=2.0, length=100, trained_length=100).round(6).tolist()
    [1.0, 0.01]
    """
    grown = _checked(factor) * length / trained_length - (factor - 1)
    return ntk_frequencies(width, theta, factor=max(1.0, grown))


def yarn_frequencies(
    width: int,
    theta: float = 10000.0,
    *,
    factor: float,
    trained_length: int,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
    truncate: bool = True,
) -> tuple[np.ndarray, float]:
    r"""YaRN: what turns often in the trained length stays, what turns less than once is slowed, and cos and sin grow.

    $$ \omega'_m = (1 - \gamma_m)\, \omega_m + \gamma_m\, \omega_m / f, \qquad
       \gamma_m = \min\left(1, \max\left(0, \frac{m - c(\beta_f)}{c(\beta_s) - c(\beta_f)}\right)\right) $$
    $$ c(\beta) = \frac{k \ln (L / 2 \pi \beta)}{2 \ln \theta}, \qquad \mathrm{magnitude} = 0.1 \ln f + 1 $$

    Plane c(β) turns β times in L positions. The paper's own ramp is straight in the number of turns; this one, straight
    in m and with both ends moved outwards to whole planes, is that of its authors' code and of every checkpoint since.

    Args:
      width: k of a head, even.
      theta: θ.
      factor: f, at least 1; at 1 these are `rotary_frequencies`, and the magnitude 1.
      trained_length: L.
      beta_fast: $\beta_f$; planes with more turns than this in L stay as they are.
      beta_slow: $\beta_s$; planes with fewer turns than this are slowed by all of f.
      truncate: whether the ramp's ends are moved to whole planes; gpt-oss does not.
    Returns:
      ω′ `(k/2,)`, and the factor on cos and sin, as `rotate` takes them: `rotate(x, position, *yarn_frequencies(...))`.
    Raises:
      ValueError: where the factor is less than 1, or the betas are exchanged.

    Reference: `minilm.reference.rotary_scaling.yarn_frequencies`. Paper: arXiv:2309.00071, sections 3.2 and 3.4.

    >>> frequencies, magnitude = yarn_frequencies(4, factor=4.0, trained_length=2048)
    >>> frequencies.round(6).tolist(), round(magnitude, 6)
    ([1.0, 0.00625], 1.138629)
    """
    if not beta_fast > beta_slow:
        expected = "Fast planes turn more often than slow ones, so beta_fast > beta_slow was expected"
        raise ValueError(f"{expected}, but they are {beta_fast} and {beta_slow}; exchange them.")
    omega = rotary_frequencies(width, theta)
    planes_per_e = width / (2 * math.log(theta))
    first, last = (planes_per_e * math.log(trained_length / (2 * math.pi * beta)) for beta in (beta_fast, beta_slow))
    if truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, width - 1)
    gamma = np.clip((np.arange(width // 2) - first) / max(last - first, 0.001), 0, 1)
    return (1 - gamma) * omega + gamma * omega / _checked(factor), 0.1 * math.log(factor) + 1


def llama3_frequencies(
    width: int,
    theta: float = 500000.0,
    *,
    factor: float = 8.0,
    low_frequency_factor: float = 1.0,
    high_frequency_factor: float = 4.0,
    trained_length: int = 8192,
) -> np.ndarray:
    r"""Llama 3.1: as YaRN's, but straight in how often a plane turns, and with no factor on cos and sin.

    $$ \omega'_m = (1 - s_m)\, \omega_m / f + s_m\, \omega_m, \qquad
       s_m = \min\left(1, \max\left(0, \frac{L\, \omega_m / 2 \pi - l}{h - l}\right)\right) $$

    Args:
      width: k of a head, even.
      theta: θ.
      factor: f, at least 1; at 1 these are `rotary_frequencies`. Llama 3.1 has 8, 3.2 has 32.
      low_frequency_factor: l, the turns in L below which a plane is slowed by all of f.
      high_frequency_factor: h, the turns in L above which it stays as it is.
      trained_length: L.
    Returns:
      ω′ `(k/2,)`.
    Raises:
      ValueError: where the factor is less than 1, or the low one is not below the high one.

    Reference: `minilm.reference.rotary_scaling.llama3_frequencies`. Paper: arXiv:2407.21783; the formula stands in its
    published code alone.

    >>> llama3_frequencies(4, theta=10000.0, trained_length=1000).round(6).tolist()
    [1.0, 0.002975]
    """
    low, high = low_frequency_factor, high_frequency_factor
    if not low < high:
        raise ValueError(f"A low factor below the high one was expected, but they are {low} and {high}; exchange them.")
    omega = rotary_frequencies(width, theta)
    s = np.clip((trained_length * omega / (2 * math.pi) - low) / (high - low), 0, 1)
    return (1 - s) * omega / _checked(factor) + s * omega


def _checked(factor):
    if factor < 1:
        raise ValueError(f"A text may be `factor` times longer: 1 or more was expected, but it is {factor}; invert it.")
    return factor
