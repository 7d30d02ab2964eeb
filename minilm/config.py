"""What a training run can be told. Every field is a flag of `minilm train`, and its comment is that flag's help.

No part of JAX loads here, so that `minilm train --help` answers at once.
"""

import dataclasses
import json
import math
import typing
from dataclasses import dataclass, field, replace
from typing import Literal


@dataclass(frozen=True)
class DataConfig:
    """What to read, and how to cut it into tokens."""

    corpus: str = "prose"
    """prose (Python's own documentation), code (its source), a file, a folder, a glob, or - for standard input."""
    encoding: str = "utf-8"
    """The encoding of the files, as Python names it: utf-8, gb18030, latin-1, ..."""
    tokenizer: Literal["bpe", "byte", "char"] = "bpe"
    """bpe learns frequent pieces of words; byte and char take text as it comes."""
    vocab_size: int = 2048
    """How many tokens bpe learns; byte and char have as many as they need."""
    held_out: float = 0.05
    """The share of documents that training never sees and validation measures on."""


@dataclass(frozen=True)
class ModelConfig:
    """The architecture and its sizes."""

    model: str = "gpt"
    """A module of minilm.models: gpt (GPT-2), modern, or another of its table MODELS, such as mlp_lm."""
    n_layers: int = 4
    """Blocks, each of attention and feed-forward."""
    n_heads: int = 4
    """Attention heads; they share the width d_model."""
    d_model: int = 128
    """The width of the residual stream, and of a token's vector."""
    d_hidden: int = 256
    """The width of the hidden layer of mlp_lm, and of the state of rnn_lm."""
    cell: Literal["elman", "gru", "lstm"] = "lstm"
    """What rnn_lm rewrites its state by."""
    mixer: str = "mha"
    """What mixes positions in mixer_lm: a row of minilm.variants, with options, such as window:width=64."""
    context_length: int = 128
    """How many tokens the model sees at once."""
    dropout: float = 0.0
    """The share of activations set to zero in training; useful when the corpus is read many times over."""
    remat: bool = False
    """Recompute activations in the backward pass instead of keeping them: less memory, a third more time."""


@dataclass(frozen=True)
class OptimizerConfig:
    """How the parameters descend."""

    optimizer: str = "adamw"
    """adamw, or muon for the matrices with Adam for the rest; a name in minilm.optimizers.OPTIMIZERS."""
    learning_rate: float = 2e-3
    """The highest step size, reached after the warm-up."""
    matrix_learning_rate: float = 0.02
    """The highest step size of the matrices under muon; adamw knows one rate for all."""
    schedule: Literal["cosine", "warm_down", "constant"] = "cosine"
    """After the warm-up: cosine falls all the way, warm_down stays and falls linearly at the end, constant stays."""
    warmup_steps: int = 50
    """Steps over which the learning rate rises from nothing."""
    warmdown_share: float = 0.4
    """The share of all steps over which warm_down falls."""
    final_share: float = 0.1
    """The learning rate at the last step, as a share of the highest."""
    weight_decay: float = 0.1
    """Decoupled decay of the matrices, chosen by their field's name w_*: never of embeddings, norms or biases."""
    beta_1: float = 0.9
    """Adam's memory of the gradient."""
    beta_2: float = 0.95
    """Adam's memory of the squared gradient."""
    clip_norm: float = 1.0
    """A gradient longer than this, over all parameters together, is shortened to it."""


@dataclass(frozen=True)
class TrainConfig:
    """Train a language model; with no flag at all, a small GPT on Python's documentation, in about three minutes.

    The run is saved as it goes, under `folder`. Ctrl-C saves too, and prints the command that continues.
    """

    data: DataConfig = field(default_factory=DataConfig)
    architecture: ModelConfig = field(default_factory=ModelConfig)
    optimization: OptimizerConfig = field(default_factory=OptimizerConfig)

    folder: str = ""
    """Where everything is saved; a new folder under runs/ if not given."""
    seed: int = 0
    """Decides the initial parameters, the order of the data and dropout: the same seed gives the same run."""
    steps: int = 800
    """Updates of the parameters."""
    batch_size: int = 16
    """Sequences a step, each of context_length tokens."""
    accumulate: int = 1
    """Cut each batch into this many parts, one after the other in memory; the result is that of the whole batch."""
    steps_per_call: int = 10
    """Steps that one compiled call makes; the state stays the same bit for bit, records but for their last digit."""
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    """The precision of the matrix products; parameters and everything else stay in float32."""
    mesh: str = ""
    """Devices to spread the run over: data=8, data=4,model=2, fsdp=8 or sequence=8; one device if not given."""

    evaluate_every: int = 200
    """Steps between measurements on held-out text; each is saved as a checkpoint."""
    evaluate_batches: int = 20
    """Batches of held-out text for each of those; the last measurement takes all of it."""
    patience: int = 0
    """Stop after so many measurements without a new best; 0 never stops early. The best state is kept in any case."""
    keep: int = 2
    """Checkpoints to keep, besides the best."""
    baselines: tuple[str, ...] = ("unigram", "bigram", "xz")
    """What to compare with on the held-out text: unigram, bigram, trigram, 4-gram, 5-gram (Kneser-Ney), xz."""
    samples: int = 2
    """How many texts to write at the end."""
    prompt: str = "A class is"
    """How those texts begin."""


_SMALL = ModelConfig(model="modern")
_MUON = OptimizerConfig(
    optimizer="muon",
    learning_rate=5e-3,
    schedule="warm_down",
    warmup_steps=10,
    warmdown_share=0.7,
    final_share=0.0,
    weight_decay=0.0,
)

PRESETS = {
    "default": TrainConfig(architecture=_SMALL, optimization=_MUON, evaluate_every=250, steps=750),
    "long": TrainConfig(
        data=DataConfig(vocab_size=4096),
        architecture=replace(_SMALL, n_layers=6, n_heads=6, d_model=192, dropout=0.1),
        optimization=_MUON,
        steps=700,
        batch_size=32,
        evaluate_every=175,
        baselines=("unigram", "bigram", "5-gram", "xz"),
    ),
    "plain": TrainConfig(),
    "quick": TrainConfig(
        data=DataConfig(vocab_size=384),
        architecture=replace(_SMALL, n_layers=2, n_heads=2, d_model=32, context_length=32),
        optimization=_MUON,
        steps=40,
        batch_size=8,
        evaluate_every=20,
        evaluate_batches=4,
        samples=1,
    ),
    "gpu": TrainConfig(
        data=DataConfig(vocab_size=8192),
        architecture=replace(_SMALL, n_layers=12, n_heads=12, d_model=768, context_length=512, dropout=0.1),
        optimization=replace(_MUON, learning_rate=2e-3, warmup_steps=100),
        steps=4000,
        batch_size=64,
        accumulate=8,  # what 16 GB hold
        patience=4,  # for these steps read the default corpus some two hundred times
        compute_dtype="bfloat16",
        baselines=("unigram", "bigram", "5-gram", "xz"),
    ),
}
"""default is what `minilm train` runs on a CPU and gpu on an accelerator; plain is GPT-2 under AdamW, its baseline."""


def preset(name: str) -> TrainConfig:
    """A preset by its name.

    >>> preset("quick").steps
    40
    >>> preset("huge")
    Traceback (most recent call last):
    ValueError: There is no preset 'huge'; there are default, long, plain, quick, gpu.
    """
    if name not in PRESETS:
        raise ValueError(f"There is no preset {name!r}; there are {', '.join(PRESETS)}.")
    return PRESETS[name]


ORDERS = {"unigram": 1, "bigram": 2, "trigram": 3, "4-gram": 4, "5-gram": 5}
BASELINES = (*ORDERS, "xz")
"""What a run can be compared with: n-grams, smoothed as Kneser and Ney do, and a compressor."""

SIZES = ("n_layers", "n_heads", "d_model", "d_hidden", "context_length")
"""What an architecture has at least one of."""

_MOST = (1 << 31) - 1  # what JAX counts to, and numbers an array's places by


def check(config: TrainConfig) -> TrainConfig:
    """The same config, if its numbers make sense; a `ValueError` that names the flag otherwise."""
    for name in ("steps", "batch_size", "accumulate", "steps_per_call", "evaluate_every", "evaluate_batches", "keep"):
        _check_count(name, getattr(config, name), _MOST if name in ("steps", "batch_size") else math.inf)
    if config.batch_size % config.accumulate:
        raise ValueError(
            f"A batch of {config.batch_size} sequences cannot be cut into {config.accumulate} equal parts: "
            f"choose an --accumulate that divides --batch-size."
        )
    for name in SIZES:
        _check_count(name, getattr(config.architecture, name), _MOST)
    told = config.optimization
    for name, fits, expected in [
        ("learning_rate", 0 < told.learning_rate < math.inf, "more than 0, and finite"),
        ("matrix_learning_rate", 0 < told.matrix_learning_rate < math.inf, "more than 0, and finite"),
        ("clip_norm", told.clip_norm > 0, "more than 0; inf clips nothing"),
        ("warmup_steps", 0 <= told.warmup_steps <= _MOST, f"0, for none, or more, and at most {_MOST}"),
        ("warmdown_share", 0 <= told.warmdown_share <= 1, "a share from 0 to 1"),
        ("final_share", 0 <= told.final_share <= 1, "a share from 0 to 1"),
        ("weight_decay", 0 <= told.weight_decay < math.inf, "0, for none, or more, and finite"),
        ("beta_1", 0 <= told.beta_1 < 1, "a share from 0 to below 1"),
        ("beta_2", 0 <= told.beta_2 < 1, "a share from 0 to below 1"),
    ]:
        if not fits:
            raise ValueError(f"--{name.replace('_', '-')} is {getattr(told, name)}, and must be {expected}.")
    if not 0 <= config.architecture.dropout < 1:
        raise ValueError(f"--dropout is {config.architecture.dropout}, and must be a share from 0 to below 1.")
    if not 0 < config.data.held_out < 1:
        raise ValueError(f"--held-out is {config.data.held_out}, and must be a share between 0 and 1.")
    for name in ("samples", "patience"):
        if getattr(config, name) < 0:
            raise ValueError(f"--{name} is {getattr(config, name)}, and must be 0, for none, or more.")
    check_seed(config.seed)
    for name in config.baselines:
        if name not in BASELINES:
            raise ValueError(f"There is no baseline called {name!r}; there are {', '.join(BASELINES)}.")
    return config


def _check_count(name, number, most):
    if not 1 <= number <= most:
        bound = "least 1" if number < 1 else f"most {most}"
        raise ValueError(f"--{name.replace('_', '-')} is {number}, and must be at {bound}.")


def check_changes(config: TrainConfig, saved: TrainConfig) -> TrainConfig:
    """`check` for a run that goes on: a number that it was trained with, before `check` refused it, may stay."""
    changed = _changed(config, saved, ("seed", "patience", "steps"))
    told = _changed(config.optimization, saved.optimization, [one.name for one in dataclasses.fields(OptimizerConfig)])
    check(replace(changed, optimization=told))
    return config


def _changed(config, saved, names):
    """The config, but of these fields those that are as they were saved have their usual values."""
    same = [name for name in names if getattr(config, name) == getattr(saved, name)]
    return replace(config, **{name: getattr(type(config)(), name) for name in same})


def check_seed(seed: int) -> None:
    """Refuse a seed of more than the 32 bits that JAX makes a key of: another one would give the same run."""
    if not 0 <= seed < 1 << 32:
        raise ValueError(f"--seed is {seed}, and must be a whole number from 0 to {(1 << 32) - 1}.")


def to_json(config) -> str:
    """A config dataclass as JSON, nested ones included."""
    return json.dumps(dataclasses.asdict(config), indent=2)


def from_json(kind, text: str):
    """The dataclass `kind` that `to_json` wrote; a `ValueError` that names what doesn't fit otherwise.

    >>> from_json(TrainConfig, to_json(PRESETS["quick"])) == PRESETS["quick"]
    True
    """
    return _build(kind, json.loads(text))


def _build(kind, values):
    types_by_name = typing.get_type_hints(kind)
    if not isinstance(values, dict):
        raise ValueError(f"A saved {kind.__name__} is {values!r}, where its fields were expected: restore the file.")
    if unknown := ", ".join(sorted(set(values) - set(types_by_name))):
        raise ValueError(
            f"A saved {kind.__name__} has no field {unknown}: it was written by another version of minilm."
        )
    for known in dataclasses.fields(kind):
        name, expected = known.name, types_by_name[known.name]
        if name in values and not _fits(expected, values[name]):
            told = expected.__name__ if isinstance(expected, type) else str(expected).removeprefix("typing.")
            raise ValueError(
                f"A saved {kind.__name__} has {name} {values[name]!r}, where {told} was expected: restore the file, or "
                f"train anew."
            )
    return kind(**{name: _convert(types_by_name[name], value) for name, value in values.items()})


def _fits(kind, value):
    """Whether JSON's value is one of the kind; what is nested in a dataclass is looked at when that is built."""
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) is Literal:
        return value in arguments
    if typing.get_origin(kind) is tuple:
        return isinstance(value, list) and all(_fits(arguments[0], one) for one in value)
    if kind in (int, float) and isinstance(value, bool):
        return False
    return dataclasses.is_dataclass(kind) or isinstance(value, (int, float) if kind is float else arguments or kind)


def _convert(kind, value):
    if dataclasses.is_dataclass(kind):
        return _build(kind, value)
    return tuple(value) if typing.get_origin(kind) is tuple else value
