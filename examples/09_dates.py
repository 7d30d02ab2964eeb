# %% [markdown]
# # 9. What day is it?
#
# *5. september 1987* is Danish, *5 верасня 1987 г.* Belarusian, *5 ngɔn ebulú 1987* Ewondo, and all of them are
# 1987-09-05. Here a network of the last notebook's kind learns to read the date in three hundred languages at once,
# and what it has to do is laid open: **copy** figures from one place to another, and **know** names of months. Which of
# the two is it that needs a look at the right place?

# %%
import os
import time
from collections import defaultdict

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from minilm.beam import translate
from minilm.config import OptimizerConfig
from minilm.data import dates
from minilm.data.pairs import PairBatches, pad
from minilm.data.pronunciations import share
from minilm.metrics.drawing import draw_alignment
from minilm.metrics.edits import exact_match
from minilm.models import decoders, encoders, scorers, seq2seq
from minilm.optimizers import make_optimizer
from minilm.training import init_state, make_step

QUICK = bool(os.environ.get("MINILM_QUICK"))
SEED = int(os.environ.get("MINILM_SEED", "0"))
if QUICK:
    jax.config.update("jax_disable_most_optimizations", True)  # what runs for moments need not be fast

# %% [markdown]
# ## Dates, and what is held out
#
# Babel knows how dates are written in a thousand places. Days from 1900 to 2099 are drawn, and for each a language, a
# place that speaks it and a form. One day in twenty is held out, whoever writes it. So is one place in ten with all of
# its dates: most of these speak a language that is spoken elsewhere too, and some a language that is never seen at all.

# %%
try:
    if QUICK:
        raise OSError("Quick mode leaves Babel alone.")
    everything = dates.written(200_000)
except OSError as error:
    print(f"{error} GENERATED dates, in three languages, stand in for its own below.")
    everything = dates.generated(3000 if QUICK else 20_000)
elsewhere = [one for one in everything if share(one.locale) < 0.1 and not QUICK]
known = [one for one in everything if share(one.locale) >= 0.1 or QUICK]
training = [one for one in known if share(one.iso) >= 0.05]
languages = {one.locale.split("_")[0] for one in training}
tests = {
    "days held out": [one for one in known if share(one.iso) < 0.05],
    "places held out, of languages known": [one for one in elsewhere if one.locale.split("_")[0] in languages],
    "languages held out": [one for one in elsewhere if one.locale.split("_")[0] not in languages],
}
tests = {name: some[: 128 if QUICK else 4000] for name, some in tests.items() if some}
print(f"{len(training):,} dates in {len(languages)} languages and {len({one.locale for one in training})} places")
for one in training[:5]:
    print(f"{one.text:36} {one.iso}  {one.locale}")

# %% [markdown]
# Every character is a token; one that was never read in training is the unknown one. What is to be written has eleven.

# %%
CHARACTERS = {character: i for i, character in enumerate(sorted({c for one in training for c in one.text}), start=2)}
FIGURES = "|0123456789-"  # the boundary, and what ISO dates are made of
WIDTHS = (24,) if QUICK else (18, 30, 48)  # each is a shape to compile; the few longer dates are not learnt from
LONGEST = 80


def read_as(text):
    """The ids of its characters; 1 is the unknown one."""
    return [CHARACTERS.get(character, 1) for character in text]


def written_as(iso):
    """The ids of what is written."""
    return [FIGURES.index(figure) for figure in iso]


# %% [markdown]
# ## Two networks
#
# Bahdanau's, which looks at the places it needs, and Sutskever's, which has read the text (from its end to its
# beginning) and remembers what it can. Their states have the same width, and they see the same batches.


# %%
def model_of(form, scorer=None, h=16 if QUICK else 128):
    """A reader and a writer, both of GRUs. Where all must pass through one vector, the reader goes one way."""
    reader = encoders.Config(
        2 + len(CHARACTERS), d_model=h // 2, d_hidden=h // 2 if scorer else h, bidirectional=bool(scorer)
    )
    reader = encoders.recurrent(reader)
    if not scorer:
        return seq2seq.Config(seq2seq.backwards(reader), form(decoders.Config(h)), len(FIGURES), d_model=16)
    return seq2seq.Config(reader, form(decoders.Config(h), scorer), len(FIGURES), d_model=16)


def fit(config):
    """Its parameters after one pass, and the losses on the way."""
    short = [one for one in training if len(one.text) <= WIDTHS[-1]]
    sources, targets = [read_as(one.text) for one in short], [written_as(one.iso) for one in short]
    data = PairBatches(sources, targets, WIDTHS, 64, SEED)
    steps = 100 if QUICK else data.n_batches
    falling = OptimizerConfig(
        learning_rate=3e-3, schedule="warm_down", warmup_steps=50, warmdown_share=0.6, final_share=0.0, weight_decay=0.0
    )
    optimizer = make_optimizer(falling, steps)
    step = make_step(lambda params, batch, key: seq2seq.loss(params, batch, config=config, key=key), optimizer, SEED)
    state, losses = init_state(jax.jit(seq2seq.init)(jax.random.key(SEED), config), optimizer), []
    for i in range(steps):
        state, metrics = step(state, jax.tree.map(lambda leaf: leaf[None, None], data.batch(i)))
        losses.append(metrics["loss"])
    return state.params, np.concatenate(jax.device_get(losses))


def answers(params, config, some, together=128):
    """What it writes of each date, in their order."""
    said = {}
    order = sorted(some, key=lambda one: len(one.text))
    for first in range(0, len(order), together):
        heap = order[first : first + together]
        heap += heap[-1:] * (together - len(heap))  # the last heap is as large as the others, and so compiled already
        width = next(width for width in (*WIDTHS, LONGEST) if len(heap[-1].text) <= width)
        batch = pad([read_as(one.text) for one in heap], [[]] * together, s=width)
        found = translate(seq2seq, params, config, batch.source, batch.source_length, max_new_tokens=12)
        said |= {one: "".join(FIGURES[i] for i in best.tokens) for one, (best, *_) in zip(heap, found, strict=True)}
    return [said[one] for one in some]


PARTS = slice(0, 4), slice(5, 7), slice(8, 10)  # of an ISO date: year, month, day
networks = {
    "with a look": model_of(decoders.bahdanau, scorers.additive(16 if QUICK else 128)),
    "without": model_of(decoders.sutskever),
}
if QUICK:
    networks.pop("without")
fitted, said = {}, {}
for name, config in networks.items():
    started = time.process_time()
    fitted[name], losses = fit(config)
    said[name] = {test: answers(fitted[name], config, some) for test, some in tests.items()}
    print(f"{name}: loss {losses[-100:].mean():.4f}, {time.process_time() - started:.0f} CPU s", flush=True)
    for test, some in tests.items():
        pairs = [(one.iso, iso) for one, iso in zip(some, said[name][test], strict=True)]
        exact = exact_match(*zip(*pairs, strict=True))
        year, month, day = (np.mean([a[part] == b[part] for a, b in pairs]) for part in PARTS)
        parts = f"year {year:6.2%}, month {month:6.2%}, day {day:6.2%}"
        print(f"    {exact:7.2%} exact ({parts}) of {len(some):,}: {test}", flush=True)

if QUICK:
    assert losses[-10:].mean() < 0.8 * losses[:10].mean(), "it does not learn"
else:
    assert exact_match([one.iso for one in tests["days held out"]], said["with a look"]["days held out"]) >= 0.99

# %% [markdown]
# With seeds 0, 1 and 2 (`MINILM_SEED`), in five minutes on one core:
#
# | exact | with a look | without |
# |---|---|---|
# | days held out | 99.2%, 99.6%, 99.4% | 45.8%, 69.0%, 32.5% |
# | places held out, of languages known | 98.6%, 97.8%, 97.9% | 42.2%, 64.1%, 31.3% |
# | languages held out | 61.1%, 72.0%, 58.6% | 45.0%, 55.5%, 37.0% |
#
# The year and the day are right in 99% without a look too: six figures travel well in one vector. It is the **month**
# that is lost, right in 46%, 69% and 33% of the days held out: how much of it depends on the seed, and on less (another
# processor, which rounds otherwise, had 57%, 72% and 32%). A likely reason: to learn a name, the error has to find the
# letters that it is made of, and without a look it comes to them through every character that was read after them. Of
# a language never seen, both read what is written in figures, and names of months that resemble a neighbour's.
#
# ## What is still wrong

# %%
name = "with a look"
for test, some in tests.items():
    wrong = [(one, iso) for one, iso in zip(some, said[name][test], strict=True) if iso != one.iso]
    for one, iso in wrong[:4]:
        print(f"{one.text:40} {iso:12} not {one.iso}   {one.locale}")

# %% [markdown]
# ## Where it looked, and what becomes of long dates

# %%
longest = {one.locale.split("_")[0]: one for one in sorted(tests["days held out"], key=lambda one: len(one.text))}
shown = [longest[language] for language in ("vi", "de", "ru", "fr") if language in longest][:3]
figure, axes = plt.subplots(1, 4, figsize=(17, 4), layout="constrained")
for one, axis in zip(shown, axes, strict=False):
    batch = pad([read_as(one.text)], [written_as(one.iso)], s=LONGEST)  # of one shape: compiled once
    weights = jax.jit(seq2seq.align)(fitted[name], *map(jnp.asarray, batch[:3]), config=networks[name])[0]
    draw_alignment(axis, weights[:, : len(one.text)], one.text, [*one.iso, "end"])
    axis.tick_params(axis="x", labelsize=7)
for name in networks:
    heaps = defaultdict(list)  # by their lengths, four at a time
    for one, iso in zip(tests["days held out"], said[name]["days held out"], strict=True):
        heaps[(len(one.text) - 1) // 4 * 4 + 1].append((one.iso, iso))
    points = {low: exact_match(*zip(*heap, strict=True)) for low, heap in sorted(heaps.items()) if len(heap) >= 20}
    print(f"{name}, by length:", *(f"{low}–{low + 3} {right:.1%}" for low, right in points.items()), sep="  ")
    axes[3].plot([low + 1.5 for low in points], [*points.values()], marker="o", label=name)
axes[3].set(xlabel="characters", ylabel="exact", ylim=(0, 1.02))
axes[3].legend()
figure.savefig("09_dates.png", dpi=150, bbox_inches="tight")

# %% [markdown]
# Of the days held out, exact by the length of their text (seeds 0, 1, 2):
#
# | characters | with a look | without |
# |---|---|---|
# | 9–12 | 98.4%, 98.8%, 98.7% | 53%, 74%, 38% |
# | 17–20 | 99.8%, 100%, 99.2% | 39%, 62%, 25% |
# | 25–28 | 100%, 99.5%, 99.7% | 37%, 66%, 29% |
# | 33–36 | 97.1%, 100%, 100% | 19%, 41%, 17% |
# | 37–40 | 100%, 100%, 100% | 17%, 26%, 10% |
#
# With a look, length costs nothing. Without one, a date of forty characters is read a third as often as one of ten:
# that is what one vector of fixed size does to longer sentences, and why somebody let the writer look back.
#
# To write a figure it looks at that figure or the one beside it, whatever the language and wherever it stands. For the
# month it looks at one or two letters of the name.
#
# ## What to try next
#
# - Put the medium form alone into the test. Which months have the same short name in two languages?
# - Let Luong's writer with `scorers.local_p(64, reach=3.0)` read the dates: it predicts the place at which to look.
# - Turn it around: give it the ISO date with the name of a place as its first token, and let it write Ewondo.
# - Train on days of this century alone, and ask for the last one. Does it copy figures, or know years?
