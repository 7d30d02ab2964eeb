"""One cell of the quality benchmark: a variant, a task, a seed and a learning rate, trained and measured.

Optimizer and beginning are the same for all: AdamW, a cosine to nothing after a warm-up over a tenth of the steps (at
most 100), weight decay 0.1, gradients clipped at 1. Every batch is fresh. Models that recall have no feed-forward, and
logits are taken at the questions alone; the language model is a whole decoder. A variant that computes at once what it
does not compute token by token is not asked: it might read the answer.
"""

import functools
import math
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.attention import candidates, quality_sizes
from benchmarks.attention.check import check
from benchmarks.attention.quality_tasks import Setting, Text, beyond
from minilm.config import DataConfig, OptimizerConfig
from minilm.data.batching import Batches, evaluation_batches
from minilm.data.preparation import prepare
from minilm.layers.embedding import init_embedding, unembed
from minilm.losses import cross_entropy
from minilm.models import mixer_lm
from minilm.optimizers import make_optimizer
from minilm.training import init_state, make_evaluate, make_step

SCANNED = 10  # steps that one compiled call makes
HELD_OUT = 1 << 32  # added to a seed: fresh batches that no training seed below it meets
QUESTIONS = 1024  # at least so many are asked at each measurement
ENOUGH = 0.99
ENDS_OF_BRANCHES = ("w_o", "w_down")  # fields of a mixer and of a feed-forward
# What runs once is compiled without care, in a third of the time.
ONCE = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


@dataclass(frozen=True)
class Cell:
    """All that decides a result; `match` is nothing, or what is made equal to which variant's: ("params", "mha")."""

    setting: Setting
    variant: str
    seed: int
    learning_rate: float
    every: int = 50
    early_stop: bool = True
    match: tuple[str, str] | None = None

    def __post_init__(self):
        for name, steps in (("The number of steps", self.setting.steps), ("--every", self.every)):
            if steps < SCANNED or steps % SCANNED:
                raise ValueError(f"{name} is {steps}, and must be a multiple of {SCANNED}.")
        self.config(self.variant)  # a variant that does not exist, or cannot have these sizes, is refused here

    def config(self, variant: str) -> mixer_lm.Config:
        """The model, before anything is matched."""
        setting, data = self.setting, self.setting.data
        return mixer_lm.Config(
            vocab_size=data.vocab_size,
            context_length=data.length,
            n_layers=setting.layers,
            n_heads=setting.heads,
            d_model=setting.d,
            mixer=variant,
            feed_forward=isinstance(data, Text),
        )

    @property
    def identity(self) -> dict:
        """What a row begins with: a cell whose row is there already is not run again."""
        return {
            "task": self.setting.task,
            "sizes": self.setting.sizes,
            "variant": self.variant,
            "options": quality_sizes.all_options(self.variant),
            "match": None if self.match is None else {"what": self.match[0], "like": self.match[1]},
            "seed": self.seed,
            "learning_rate": self.learning_rate,
            "steps": self.setting.steps,
            "evaluated_every": self.every,
            "early_stop": self.early_stop,
        }


def run(cell: Cell) -> dict:
    """The results of a cell: what a row holds behind its identity."""
    config, built = built_as(cell)
    verdict = checked(config.mixer, config.d_model, config.n_heads, config.context_length)
    if not verdict["passed"]:
        return built | {"status": "wrong", "reason": verdict["reason"]}
    begun = time.process_time()
    results = learn_text(cell, config) if isinstance(cell.setting.data, Text) else learn_recall(cell, config)
    return built | results | {"cpu_seconds": round(time.process_time() - begun, 1)}


@functools.cache
def checked(mixer: str, d: int, heads: int, length: int) -> dict:
    """The verdict on a mixer at once by the same token by token: who sees the future there recalls nothing."""
    return check(candidates.mixer(mixer, d, heads), "fwd", "float32", length)


def built_as(cell: Cell) -> tuple[mixer_lm.Config, dict]:
    """The model with what is to be matched matched, and its sizes."""
    config, note = cell.config(cell.variant), None
    if cell.match:
        what, like = cell.match
        field = {"params": "parameters", "state": "state_bytes"}[what]
        target = getattr(quality_sizes.sizes(cell.config(like)), field)
        config = quality_sizes.matched(config, what, target)
        off = getattr(quality_sizes.sizes(config), field) / target - 1
        note = {"target": target, "off": round(off, 4), "d": config.d_model, "mixer": config.mixer}
    found = quality_sizes.sizes(config)
    return config, {
        "convolution": quality_sizes.convolutions(config.mixer, config.d_model, config.n_heads),
        "parameters": found.parameters,
        "state_bytes": found.state_bytes,
        "matched": note,
    }


# ── training ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def question_loss(params, batch, *, config: mixer_lm.Config, key=None):
    """Cross-entropy of the answers; only features at the questions meet the embedding."""
    x = mixer_lm.features(params, batch.tokens, config=config)
    x = jnp.take_along_axis(x, batch.places[..., None], axis=-2)
    return cross_entropy(unembed(params.embedding, x), batch.targets, batch.weights)


@functools.cache
def compiled(loss, config: mixer_lm.Config, learning_rate: float, steps: int):
    """The step, the optimizer and the measurement: the same functions for every seed, so compiled once."""
    recipe = OptimizerConfig(
        learning_rate=learning_rate, warmup_steps=min(100, math.ceil(steps / 10)), final_share=0.0, weight_decay=0.1
    )
    optimizer, loss = make_optimizer(recipe, steps), functools.partial(loss, config=config)
    measure = jax.jit(lambda params, batch: loss(params, batch)[1])
    return optimizer, make_step(loss, optimizer, seed=0), measure, make_evaluate(loss)


def learning(cell: Cell, config: mixer_lm.Config):
    """What is minimised, and the batch of a step."""
    data, rows = cell.setting.data, cell.setting.rows
    if isinstance(data, Text):
        return mixer_lm.loss, Batches(corpus(data).train.tokens, data.length, rows, cell.seed).batch
    return question_loss, lambda step: data.batch(cell.seed, step, rows)


def stacked(batch_at, step: int):
    """The batches of one compiled call, each of one part."""
    return jax.tree.map(lambda *leaves: np.stack(leaves)[:, None], *[batch_at(step + i) for i in range(SCANNED)])


def begin(cell: Cell, config: mixer_lm.Config):
    """The model's own initial parameters, with embedding and branches as large as the setting says."""

    def scaled(path, leaf):
        return cell.setting.branches * leaf if getattr(path[-1], "name", "") in ENDS_OF_BRANCHES else leaf

    def init(key):
        params = jax.tree.map_with_path(scaled, mixer_lm.init(key, config))
        deviation = cell.setting.embedding
        embedding = init_embedding(jax.random.fold_in(key, 1), config.vocab_size, config.d_model, deviation=deviation)
        return params._replace(embedding=embedding)

    return jax.jit(init, compiler_options=ONCE)(jax.random.key(cell.seed))


def descend(cell: Cell, config, advance, optimizer, batch_at, measured=None):
    """Train; return the parameters, and how it went. `measured(params)` is the accuracy, asked every so many steps."""
    state, curve, seconds, step = init_state(begin(cell, config), optimizer), [], [], 0
    while step < cell.setting.steps:
        batches = stacked(batch_at, step)
        begun = time.process_time()
        state, metrics = advance(state, batches)
        finite = np.isfinite(np.asarray(metrics["loss"])).all()
        seconds.append((time.process_time() - begun) / SCANNED)
        step += SCANNED
        if not finite:
            reason = f"The loss was no number within {step} steps: a lower learning rate may help."
            return state.params, {"status": "diverged", "reason": reason, "steps_run": step, "curve": curve}
        if measured and (step % cell.every == 0 or step == cell.setting.steps):
            curve.append([step, round(measured(state.params), 4)])
            if cell.early_stop and curve[-1][1] >= ENOUGH:
                break
    cost = {"cpu_seconds_a_step": round(float(np.median(seconds)), 4)}  # the first call compiles
    return state.params, {"status": "ok", "reason": None, "steps_run": step, "curve": curve} | cost


def learn_recall(cell: Cell, config: mixer_lm.Config) -> dict:
    """Accuracy at the budget, steps to 99%, and accuracy at sizes that were not trained on."""
    data, rows = cell.setting.data, cell.setting.rows
    loss, batch_at = learning(cell, config)
    for far in beyond(data).values():  # what a variant refuses there, it refuses before anything is trained
        batch = far.batch(0, 0, rows)
        jax.eval_shape(lambda batch: loss(mixer_lm.init(jax.random.key(0), config), batch, config=config), batch)
    optimizer, advance, measure, _ = compiled(loss, config, cell.learning_rate, cell.setting.steps)

    def accuracy(params, data):
        count = math.ceil(QUESTIONS / (rows * data.pairs))
        found = [measure(params, data.batch(HELD_OUT + cell.seed, i, rows)) for i in range(count)]
        return sum(float(m.correct_count) for m in found) / sum(float(m.token_count) for m in found)

    params, went = descend(cell, config, advance, optimizer, batch_at, lambda params: accuracy(params, data))
    finished = went["status"] == "ok"
    return went | {
        "accuracy": went["curve"][-1][1] if finished else None,
        "steps_to_99": next((step for step, right in went["curve"] if right >= ENOUGH), None),
        "transfer": {n: round(accuracy(params, far), 4) for n, far in beyond(data).items()} if finished else {},
        "chance": {name: round(right, 5) for name, right in data.chance._asdict().items()},
        "within_reach": within_reach(cell, config),
        "bits_per_byte": None,
    }


def within_reach(cell: Cell, config: mixer_lm.Config) -> float | None:
    """The share of questions whose answer the model can have read; None where it reads all. Beyond, it must guess."""
    far = quality_sizes.reach_of_all(config)
    distances = cell.setting.data.batch(HELD_OUT + cell.seed, 0, QUESTIONS).distances
    return None if far is None else round(float((distances <= far).mean()), 4)


def learn_text(cell: Cell, config: mixer_lm.Config) -> dict:
    """Bits per byte of all of the held-out text, after a fixed number of tokens."""
    data, rows, text = cell.setting.data, cell.setting.rows, corpus(cell.setting.data)
    loss, batch_at = learning(cell, config)
    optimizer, advance, _, evaluate = compiled(loss, config, cell.learning_rate, cell.setting.steps)
    params, went = descend(cell, config, advance, optimizer, batch_at)
    results = {"accuracy": None, "steps_to_99": None, "transfer": {}, "chance": None, "bits_per_byte": None}
    results["within_reach"] = None
    if went["status"] == "ok":
        nats, tokens = evaluate(params, evaluation_batches(text.validation.tokens, data.length, rows))
        results["bits_per_byte"] = round(text.validation.bits_per_byte(nats / tokens), 4)
    return went | results | {"tokens": cell.setting.steps * rows * data.length}


@functools.cache
def corpus(data: Text):
    """The corpus, prepared once a process, in a folder that lasts as long."""
    wanted = DataConfig(corpus=data.corpus, tokenizer=data.tokenizer, vocab_size=data.vocab_size)
    return prepare(wanted, Path(tempfile.mkdtemp(dir=_folder().name)))


@functools.cache
def _folder():
    return tempfile.TemporaryDirectory()
