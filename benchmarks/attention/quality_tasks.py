"""What the quality benchmark asks: a task with the sizes of its data and of the model that learns it, by name.

>>> setting("mqar:length=128,pairs=32").data
MQAR(vocab_size=256, length=128, pairs=32)
"""

import difflib
from dataclasses import dataclass, fields, replace

from minilm.data.recall import MQAR, Induction, SelectiveCopy
from minilm.data.tokenizers import ByteTokenizer


@dataclass(frozen=True)
class Text:
    """A small language model on a corpus, measured in bits per byte of text that it never read; bpe tokens, or byte."""

    corpus: str = "prose"
    tokenizer: str = "bpe"
    vocab_size: int = 2048
    length: int = 128

    def __post_init__(self):
        if self.tokenizer not in ("bpe", "byte"):
            raise ValueError(f"The tokenizer of lm is bpe or byte, but it was told {self.tokenizer!r}.")
        if self.tokenizer == "byte":
            object.__setattr__(self, "vocab_size", ByteTokenizer().vocab_size)


@dataclass(frozen=True)
class Setting:
    """A task; the steps, and the rows of a batch; the model's width, heads and layers, and how large it begins.

    The embedding is N(0, embedding²), and what a branch adds to the stream is multiplied by `branches` at first, by its
    last weight. These two decide whether recall is learnt, whatever the mixer. MQAR of 8 pairs, one seed; the step at
    which 99% were reached, or the accuracy at the last step that was run:

    | embedding, branches | 0.02, 1 | 0.125, 1 | 0.125, 0.1 | 0.02, 0.1 | 0.05, 0.1 |
    |---|---|---|---|---|---|
    | softmax without positions, convolution | 0.15 at 1000 | 300 | 250 | 400 | 250 |
    | rotary softmax, no convolution | 0.64 at 700 | 0.18 at 1000 | 0.16 at 500 | 400 | 0.84 at 500 |
    | Mamba-2 | 0.17 at 400 | 0.14 at 1000 | 0.98 at 400 | 0.41 at 400 | 400 |

    Large branches drown the token that a position holds; a large embedding that also reads out repeats it.
    """

    data: MQAR | SelectiveCopy | Induction | Text
    steps: int = 1000
    rows: int = 64
    d: int = 64
    heads: int = 2
    layers: int = 2
    embedding: float = 0.05
    branches: float = 0.1

    @property
    def task(self) -> str:
        """Its name in the table."""
        return next(name for name, known in TASKS.items() if type(known.data) is type(self.data))

    @property
    def sizes(self) -> dict:
        """Every number but the steps."""
        own = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in ("data", "steps")}
        return {field.name: getattr(self.data, field.name) for field in fields(self.data)} | own


TASKS = {
    "mqar": Setting(MQAR()),
    "selective-copy": Setting(SelectiveCopy(), steps=3000),
    "induction": Setting(Induction(), steps=500),
    "lm": Setting(Text(), steps=400, rows=16, d=128, heads=4, layers=4),
}


def setting(text: str) -> Setting:
    """The setting that a text means: a name of the table, with sizes behind a colon where they are others."""
    name, _, rest = text.partition(":")
    if name not in TASKS:
        close = difflib.get_close_matches(name, TASKS, n=1)
        hint = f", did you mean {close[0]!r}?" if close else "."
        raise ValueError(f"There is no task {name!r}{hint} There are {', '.join(TASKS)}.")
    found, known = TASKS[name], TASKS[name].sizes | {"steps": TASKS[name].steps}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if not equals or key not in known:
            raise ValueError(f"{name} has no size {part!r}: give name=value, of {', '.join(known)}.")
        known[key] = _converted(key, value, type(known[key]))
    data = replace(found.data, **{field.name: known.pop(field.name) for field in fields(found.data)})
    return replace(found, data=data, **known)


def _converted(key, value, kind):
    try:
        converted = kind(value)
    except ValueError:
        converted = 0
    if kind is not str and not converted > 0:
        wanted = "a whole number of 1 or more" if kind is int else "a number above 0"
        raise ValueError(f"The size {key} is {value!r}, and must be {wanted}.")
    return converted


def beyond(data) -> dict:
    """More of the same, by its sizes: what a model that has learnt one size is put to without having trained on it.

    >>> list(beyond(MQAR())), list(beyond(Induction()))
    (['T64/K16', 'T128/K32'], ['T128', 'T256'])
    """
    t, k = data.length, getattr(data, "pairs", 0)
    if isinstance(data, MQAR):
        sizes = [(t, 2 * k), (2 * t, 4 * k)]
        fits = [(t, k) for t, k in sizes if 4 * k <= t and 2 * k + 2 <= data.vocab_size]
        return {f"T{t}/K{k}": replace(data, length=t, pairs=k) for t, k in fits}
    if isinstance(data, SelectiveCopy):
        return {f"T{2 * t}": replace(data, length=2 * t)}
    return {f"T{n * t}": replace(data, length=n * t) for n in (2, 4)}
