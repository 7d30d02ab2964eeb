# %% [markdown]
# # 1. Counting
#
# A language model gives every token a probability, given the tokens before it. The oldest way to one is to count: how
# often did this token follow these? Shannon did it by hand in 1948, opening a book at random until he found the same
# letters again. This notebook counts a whole book, and meets the question that everything later answers better:
# **what is the probability of something that was never seen?**

# %%
import math
import os
import tempfile

import matplotlib.pyplot as plt
import numpy as np

from minilm.baselines import xz_bits_per_byte
from minilm.config import DataConfig
from minilm.data.preparation import prepare
from minilm.data.tokenizers import load
from minilm.models import ngram

QUICK = bool(os.environ.get("MINILM_QUICK"))

# %% [markdown]
# ## The text
#
# Python's own documentation: two megabytes of English that are on every machine. Five percent of its documents are held
# out, near-duplicates of none that we count, so that what we measure is not memory. Text is cut into 2,048 kinds of
# tokens, frequent pieces of words, by byte-pair encoding.

# %%
with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
    corpus = prepare(DataConfig(), folder)
    tokenizer = load(f"{folder}/tokenizer.json")
    train, held_out = (np.array(part.tokens) for part in corpus)
V = tokenizer.vocab_size
print(f"{len(train):,} tokens to count, {len(held_out):,} to be measured on")

# %% [markdown]
# ## Counts
#
# With $c(h w)$ the number of times that $w$ came after the history $h$, the likeliest model of what was seen is
#
# $$ P(w \mid h) = \frac{c(h w)}{c(h)} $$
#
# A history of one token makes a *bigram* model. Here is what followed " the":

# %%
the = tokenizer.encode(" the")[0]
after = np.bincount(train[1:][train[:-1] == the], minlength=V)
for token in np.argsort(after)[::-1][:8]:
    print(f"{after[token] / after.sum():6.3f}  the{tokenizer.decode([token])}")
print(f"{np.mean(after == 0):.0%} of all tokens never came after ' the'")

# %% [markdown]
# ## What was never seen
#
# One held-out pair that never occurred makes the probability of the whole text zero. Four answers, in the order of
# their age, all of the form
#
# $$ P(w \mid h) = a(h, w) + \gamma(h)\, P(w \mid h') $$
#
# where $h'$ is $h$ without its first token:
#
# - **add-k** (Laplace): count everything $k$ times more than it came. Nearly all tokens never come after a given
#   history, so nearly all of the probability is given away.
# - **backoff** (Katz): take a little, $D$, from every count that is not zero, and give it to what the shorter history
#   says of the tokens that were not seen.
# - **Kneser-Ney**: let the shorter history count not how *often* a token came, but after how many *different* ones.
#   "Francisco" is frequent, but after one token only; elsewhere it is a poor guess.
# - **modified Kneser-Ney**: three discounts, for counts of one, of two, and of more.
#
# What they are worth is the number of bits that they need for each byte of the held-out text: fewer is better, 8 is
# knowing nothing.

# %%
orders = (1, 2, 3) if QUICK else (1, 2, 3, 4, 5)
models = {
    "add-k, k = 1": lambda order: ngram.add_k(train, order, V),
    "add-k, k = 0.01": lambda order: ngram.add_k(train, order, V, 0.01),
    "backoff": lambda order: ngram.backoff(train, order, V),
    "Kneser-Ney": lambda order: ngram.kneser_ney(train, order, V),
    "modified Kneser-Ney": lambda order: ngram.modified_kneser_ney(train, order, V),
}


def bits_per_byte(model):
    """Bits for each byte of the held-out text."""
    return corpus.validation.bits_per_byte(-ngram.log_probability(model, held_out)[1:].mean())


bits = {name: [bits_per_byte(fit(order)) for order in orders] for name, fit in models.items()}
print(f"{'bits per byte, by order':24}" + "".join(f"{order:8}" for order in orders))
for name, row in bits.items():
    print(f"{name:24}" + "".join(f"{b:8.3f}" for b in row))

# %% [markdown]
# Counting has no seed: with Python 3.11's documentation it always gives
#
# | order | 1 | 2 | 3 | 4 | 5 |
# |---|---|---|---|---|---|
# | add-k, k = 1 | 2.831 | 2.368 | 2.908 | 3.185 | 3.295 |
# | add-k, k = 0.01 | 2.832 | 2.102 | 2.388 | 2.862 | 3.128 |
# | backoff | 2.831 | 2.036 | 1.890 | 1.898 | 1.908 |
# | Kneser-Ney | 2.831 | 2.019 | 1.842 | 1.815 | 1.805 |
# | modified Kneser-Ney | 2.831 | 2.012 | 1.821 | 1.800 | 1.794 |
#
# That of Kneser and Ney is NLTK's to 1e-6 in perplexity, for the same discount (`python -m benchmarks.ngram`, which
# tells no time unless it is).
#
# Without a history all are nearly one model. With more of it, most histories are met once or never, and then all
# depends on what is said of the unseen: adding k gets worse with every token of history from the second on, backing off
# gains up to the third, the two of Kneser and Ney up to the fifth, but ever less. More is not to be had from counting
# two megabytes.

# %%
text = held_out[held_out != tokenizer.end_of_text]
xz = xz_bits_per_byte(tokenizer.decode_bytes(text))
figure, axes = plt.subplots(figsize=(7, 4))
for name, row in bits.items():
    axes.plot(orders, row, marker="o", label=name)
axes.axhline(xz, color="gray", linestyle="--", label="xz, of the held-out text alone")
axes.set(xlabel="order (tokens of history, and one)", ylabel="bits per byte of held-out text", xticks=orders)
axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
figure.savefig("01_ngram.png", dpi=150, bbox_inches="tight")

best = min(bits["modified Kneser-Ney"])
assert best < min(bits["Kneser-Ney"]) < min(bits["backoff"]) < min(bits["add-k, k = 0.01"])
print(f"modified Kneser-Ney {best:.3f}, xz {xz:.3f}, knowing nothing {math.log2(256):.0f}")

# %% [markdown]
# ## Let it write
#
# Every token is drawn from its distribution. The longer the history, the more of it is English, and the more of it is
# copied: a 5-gram model joins phrases that it has read. None of them knows what it was about five tokens ago.

# %%
rng = np.random.default_rng(0)
prompt = tokenizer.encode("A class is")
for order in orders:
    written = ngram.generate(ngram.modified_kneser_ney(train, order, V), prompt, 30, rng)
    print(f"order {order}: A class is{tokenizer.decode(written)!r}\n")

# %% [markdown]
# ## What to try next
#
# - Which k makes add-k best, and how does it depend on the order? Choose it on a part of the *training* text: why?
# - `ngram.kneser_ney(train, 3, V, discounts=(0.0, 0.1, 0.1))` is what NLTK computes by default. How far from the best
#   discount is it?
# - Counts cannot tell that "class" and "type" are alike: each history is learnt apart. The next notebook gives tokens
#   places in a space, where what is learnt of one is learnt of its neighbours.
