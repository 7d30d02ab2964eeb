r"""How a law looks for the smallest input that breaks it, and how far two results may be apart.

Every tolerance of the laws is a row of this table. Two results count as equal when they differ by at most

$$ C \cdot u \cdot \max(|\text{results}|, |\text{inputs}|) $$

where u is the unit roundoff of the *coarser* of the two results' dtypes: 2.2e-16 for float64, 1.2e-7 for float32,
7.8e-3 for bfloat16. A float64 function is thus held to fourteen digits, a bfloat16 one to what it has.

| constant     | C     | what is compared                                                             |
|--------------|-------|------------------------------------------------------------------------------|
| `BITWISE`    | 0     | what may not differ at all: the past after a change of the future            |
| `LAYER`      | 64    | the same mathematics in another order: another batch, tile, cache or padding |
| `FAR`        | 16    | a norm's output when the mean is r deviations from 0; the bound is C·u·r     |
| `DIFFERENCE` | 4096  | a gradient and central differences; h = u^(1/3), the bound is C·u^(2/3)      |

The chance that a correct sampler fails the chi-square test is `FALSE_ALARM`, one in a million. What an output ought
to depend on is found to be ignored after `DRAWS` inputs, for a sparse attention ignores much of each.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, Verbosity, find, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky, NoSuchExample

from minilm.laws.structure import array, paired, raised, shaped

BITWISE = 0.0
LAYER = 64.0
FAR = 16.0
DIFFERENCE = 4096.0
FALSE_ALARM = 1e-6
DRAWS = 64
BEYOND = 16  # tokens more than a window, by which it must have slid
LONG = 200  # characters of a text that are shown

CHANCE = "the same input was judged differently the second time; laws need dropout and all other chance off"


class LawBroken(AssertionError):  # noqa: N818, the sentence reads better so
    """A law does not hold: `law` is its name, `sentence` what broke and by how much, `inputs` the smallest such."""

    def __init__(self, law: str, sentence: str, inputs: dict):
        self.law, self.sentence, self.inputs = law, sentence, inputs
        super().__init__("\n".join([f"{law}: {sentence}", *(_line(name, value) for name, value in inputs.items())]))


def _holds_fractions(dtype):
    """Whether a dtype is one of floating point, by a number. NumPy knows bfloat16 once ml_dtypes is imported."""
    with suppress(ImportError):
        import ml_dtypes  # noqa: F401
    try:
        # V is how NumPy sees bfloat16, but records and integers of four bits too.
        return np.dtype(dtype).kind in "fV" and float(np.array(-1.5).astype(dtype)) == -1.5
    except (TypeError, ValueError):
        return False


@dataclass(frozen=True)
class Search:
    """How hard a law looks.

    Attributes:
      lengths: how long sequences may be, shortest first; a compiled function is compiled once for each. Longer ones
        are asked of a window alone, by `window_honoured` and `cached_equals_full`, which say when.
      examples: how many inputs are tried before a law is said to hold.
      dtype: of the inputs handed to your function; results are judged by the dtype that comes back.
    Raises:
      ValueError: for no length, a length or number of examples below 1, and a dtype that holds no fractions.
    """

    lengths: tuple[int, ...] = (1, 2, 3, 5)
    examples: int = 40
    dtype: str = "float64"

    def __post_init__(self):
        if not self.lengths or min(self.lengths) < 1:
            raise ValueError(f"`lengths` are one or more numbers from 1 on, but they are {self.lengths!r}.")
        if self.examples < 1:
            raise ValueError(f"A law looks at 1 example or more, but `examples` is {self.examples!r}.")
        if not _holds_fractions(self.dtype):
            raise ValueError(f"`dtype` is one of floating point, such as 'float32', but it is {self.dtype!r}.")

    def array(self, *shape: int, odd: bool = False) -> st.SearchStrategy:
        """Quarters from -9/4 to 9/4, which shrink to 0 (odd: eighths, never 0); where they are many, by a seed."""
        size = int(np.prod(shape))
        if size > 128:
            seeds = st.integers(0, 2**20)
            return seeds.map(lambda seed: np.random.default_rng(seed).normal(size=shape).astype(self.dtype))
        numbers = st.tuples(*[st.integers(-9, 9)] * size).map(lambda n: np.array(n, np.float64).reshape(shape))
        return numbers.map(lambda n: ((2 * n + 1) / 8 if odd else n / 4).astype(self.dtype))

    def loud(self, *shape: int) -> st.SearchStrategy:
        """The same, up to ten thousand times larger."""
        return st.builds(lambda x, s: (x * s).astype(self.dtype), self.array(*shape), st.sampled_from([1.0, 1e2, 1e4]))

    def length(self, least: int = 1) -> st.SearchStrategy:
        """One of the lengths that are at least `least`."""
        return st.sampled_from([t for t in self.lengths if t >= least] or [least])


USUAL = Search()


def longest(w: int, search: Search) -> int:
    """How many tokens a window of w is asked of: more than w, so that it slides, and no more than a table may have.

    Raises:
      ValueError: for a w below 1.
    """
    if w < 1:
        raise ValueError(f"A window counts the token itself, so it is at least 1, but it is {w}.")
    if search.lengths == USUAL.lengths:
        return w + BEYOND
    return max(search.lengths) if max(search.lengths) > w else w + 3


def forall(
    law: str,
    inputs: st.SearchStrategy,
    violation: Callable[..., str | None],
    search: Search,
    known: Iterable[dict] = (),
    smaller: Callable[[dict], Iterable[dict]] = lambda case: (),
) -> None:
    """Raise `LawBroken` with the smallest of `inputs`, a dictionary by name, for which `violation` has a sentence.

    Where none is found, the inputs of `known` are tried too, each of them, whatever chance has drawn before. One that
    breaks the law is made `smaller` for as long as what is left breaks it.
    """
    try:
        smallest = find(
            inputs, lambda case: bool(_sentence(violation, case)), settings=_quiet(search), random=Random(0)
        )
    except NoSuchExample:
        return for_each(law, known, violation, smaller)
    except Flaky:
        raise LawBroken(law, CHANCE, {}) from None
    raise LawBroken(law, _sentence(violation, smallest) or CHANCE, smallest)


def for_each(
    law: str,
    cases: Iterable[dict],
    violation: Callable[..., str | None],
    smaller: Callable[[dict], Iterable[dict]] = lambda case: (),
) -> None:
    """Raise `LawBroken` with the first of `cases` for which `violation` has a sentence, or raises anything itself."""
    for case in cases:
        if sentence := _sentence(violation, case):
            while found := next(((less, s) for less in smaller(case) if (s := _sentence(violation, less))), None):
                case, sentence = found
            raise LawBroken(law, sentence, case)


def shortened(value: Any) -> str:
    """What Python writes for a value, and of a long text its ends alone."""
    text = repr(value)
    return text if len(text) <= LONG else f"{text[: LONG // 2]} ... {text[-LONG // 2 :]} ({len(text)} characters)"


def unit_roundoff(dtype: np.dtype) -> float:
    """The distance from 1 to the next larger number, found by halving, so that bfloat16 needs no special case.

    >>> bool(unit_roundoff(np.dtype("float32")) == np.finfo("float32").eps)
    True
    """
    gap = 1.0
    while dtype.type(1 + gap / 2) != dtype.type(1):
        gap /= 2
    return gap


def apart(actual: Any, expected: Any, C: float = LAYER, inputs: tuple = ()) -> str:
    """How `actual` is not `expected`, as the end of a sentence; empty where it is, to the tolerance of the table."""
    a, e = array(actual), array(expected)
    if a.shape != e.shape:
        return f"has shape {a.shape} where {e.shape} was expected"
    if a.size == 0:
        return ""
    u = max(0.0 if x.dtype.kind in "iub" else unit_roundoff(x.dtype) for x in (a, e))
    a, e = a.astype(np.float64), e.astype(np.float64)
    if not (np.isfinite(a).all() and np.isfinite(e).all()):
        return "is not finite"
    scale = max(float(np.abs(x).max()) for x in (a, e, *(np.asarray(x, np.float64) for x in inputs)) if np.size(x))
    error, bound = float(np.abs(a - e).max()), C * u * scale
    if error <= bound:
        return ""
    return f"differs by {error:.2g} where {bound:.2g} is allowed" if C else f"changes by {error:.2g}"


def off_slope(f: Callable, inputs: tuple, d_y: Any, gradients: Any, v: tuple, loudest: float = 0.0) -> str:
    r"""How a gradient of <d_y, f> is not its slope along v by central differences, as a sentence; empty where it is.

    $$ \sum_n \langle d_n, v_n \rangle = \frac{\langle d_y, f(x + h v) - f(x - h v) \rangle}{2 h}, \qquad h = u^{1/3} $$

    The bound is relative to the sums of absolute values on both sides, and to `loudest`, a number lost within f.
    """
    pairs = paired(gradients, inputs, "the gradient", "the input")
    d_x = [shaped(gradient, x.shape, "the gradient") for gradient, x in pairs]
    y = array(f(*inputs))
    h = unit_roundoff(y.dtype) ** (1 / 3)
    ends = [[(x + sign * h * along).astype(x.dtype) for x, along in zip(inputs, v, strict=True)] for sign in (1, -1)]
    plus, minus = (array(f(*end)).astype(np.float64) for end in ends)
    # Along v as it was rounded: next to a loud number a step of h is coarse.
    v = tuple((a.astype(np.float64) - b.astype(np.float64)) / (2 * h) for a, b in zip(*ends, strict=True))
    d_x = [gradient.astype(np.float64) for gradient in d_x]
    slope, difference = sum(map(np.vdot, d_x, v)), np.vdot(d_y, plus - minus) / (2 * h)
    scale = sum(map(np.vdot, map(np.abs, d_x), map(np.abs, v))) + np.vdot(np.abs(d_y), np.abs(y)) + loudest
    if abs(slope - difference) <= DIFFERENCE * h**2 * scale:
        return ""
    return f"the slope along v is {difference:.6g} by central differences and {slope:.6g} by the gradient"


def _sentence(violation, case):
    try:
        return violation(**case) or ""
    except Exception as error:
        return raised(error)


def _quiet(search):
    return settings(
        max_examples=search.examples,
        deadline=None,
        database=None,
        derandomize=False,
        phases=(Phase.generate, Phase.shrink),
        report_multiple_bugs=False,
        suppress_health_check=tuple(HealthCheck),  # pyright: ignore[reportArgumentType]
        verbosity=Verbosity.quiet,
    )


def _line(name, value):
    write = shortened if isinstance(value, str) else repr
    small = isinstance(value, np.ndarray)
    text = np.array2string(value, precision=4, separator=", ", threshold=64) if small else write(value)
    return f"  {name} = " + text.replace("\n", "\n" + " " * (len(name) + 5))
