# %% [markdown]
# # 5. Remembering
#
# Counting looked back four tokens, the first neural network eight, and both forget everything before. A recurrent
# network has no such edge: it reads one token after the other and keeps what it wants to remember in a *state*, a few
# hundred numbers that it rewrites at every step. Reading costs the same at the first token and at the millionth.
#
# Whether it learns to remember is another question, and for ten years the answer was no. This notebook trains the
# network of 1990, the repair of 1997 and its shorter form of 2014 on the same text, with the same number of parameters,
# and then measures **how far back each of them can be taught**.

# %%
import bisect
import functools
import inspect
import os
import tempfile
from dataclasses import replace

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from minilm import generation
from minilm.baselines import baselines
from minilm.config import DataConfig, OptimizerConfig
from minilm.data.batching import ConsecutiveBatches, evaluation_batches
from minilm.data.preparation import prepare
from minilm.data.tokenizers import load
from minilm.layers.embedding import embed
from minilm.layers.recurrent.unroll import stacked
from minilm.losses import token_cross_entropy
from minilm.models import rnn_lm
from minilm.models.cells import CELLS
from minilm.optimizers import make_optimizer
from minilm.sampling import Sampler

QUICK = bool(os.environ.get("MINILM_QUICK"))
SEED = int(os.environ.get("MINILM_SEED", "0"))
if QUICK:
    jax.config.update("jax_disable_most_optimizations", True)  # what runs for moments need not be fast

# %% [markdown]
# ## Three ways to rewrite a state
#
# **Elman** (1990) squashes a sum of what is read and what is remembered:
#
# $$ h' = \tanh(x W_x + b_x + h W_h + b_h) $$
#
# That is the whole cell, and its gradient is as short. From one step to the one before, it is multiplied by
#
# $$ \frac{\partial h'}{\partial h} = \mathrm{diag}(1 - h'^2)\, W_h^\top $$
#
# and over $k$ steps by $k$ such matrices: it shrinks like $c^k$, or it grows like it. What happened forty tokens ago is
# then either not heard at all, or drowns everything.
#
# The **LSTM** (1997) adds instead of multiplying. A cell $c$ is kept by a forget gate $f$, and written to by an input
# gate $i$; where $f = 1$ its gradient passes unchanged, however long:
#
# $$ i, f, o = \sigma(\ldots), \quad g = \tanh(\ldots) $$
# $$ c' = f \odot c + i \odot g, \qquad h' = o \odot \tanh(c') $$
#
# The **GRU** (2014) makes do with one state and one gate less: what is kept and what is new share it, and a second gate
# says how much of the past the new is made of.
#
# $$ r, z = \sigma(\ldots), \quad n = \tanh(x W^n_x + b^n_x + r \odot (h W^n_h + b^n_h)) $$
# $$ h' = (1 - z) \odot n + z \odot h $$

# %%
for cell in CELLS.values():
    print(inspect.getsource(cell.step).split('"""')[-1].strip("\n"), end="\n\n")

# %% [markdown]
# ## The same number of parameters
#
# An LSTM has four matrices where Elman's network has one, so with as many parameters Elman's state is the widest.
# Tokens have vectors of the same width in all three; the same vectors, transposed, read the answer out.

# %%
with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
    corpus = prepare(DataConfig(vocab_size=512 if QUICK else 2048), folder)
    tokenizer = load(f"{folder}/tokenizer.json")
    train, held_out = (part._replace(tokens=np.array(part.tokens)) for part in corpus)

B, T, D, H, STEPS, CALL = (4, 16, 16, 16, 20, 10) if QUICK else (16, 32, 128, 256, 1200, 150)


def model_of(cell, width):
    """The model's hyper-parameters with one layer of that cell."""
    return rnn_lm.Config(tokenizer.vocab_size, T, cell, n_layers=1, d_model=D, d_hidden=width)


def n_parameters(config):
    """How many numbers it learns."""
    return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(lambda key: rnn_lm.init(key, config), KEY)))


KEY = jax.random.key(SEED)
NAMES = ["lstm"] if QUICK else ["elman", "gru", "lstm"]
wanted = n_parameters(model_of("lstm", H))
configs = {}
for name in NAMES:
    width = bisect.bisect_left(range(8 * H), wanted, key=lambda width, name=name: n_parameters(model_of(name, width)))
    configs[name] = model_of(name, width)
    print(f"{name:6} state of {width:4}, {n_parameters(configs[name]):,} parameters")

# %% [markdown]
# ## Training, a window at a time
#
# The gradient of a text of 600,000 tokens would need all of its states at once. *Truncated* backpropagation through
# time reads a window, learns from it, and **carries the state into the next window** as a constant: the past still
# speaks, it is only no longer corrected. So the batches are not drawn at random: each row goes on where it stood.
#
# A gradient that may grow like $c^k$ now and then does. It is *clipped*: shortened to length 1 where it is longer.

# %%
batches = ConsecutiveBatches(train.tokens, T, B)
RATES = {"elman": 3e-3, "gru": 8e-3, "lstm": 1e-2}  # of a few that were tried on each: Elman's bears the least


@functools.partial(jax.jit, static_argnames="config")
def held_out_sums(params, state, batch, config):
    """The state after a window, and what it took to read it."""
    _, (state, metrics) = rnn_lm.carried_loss(params, state, batch, config=config)
    return state, metrics


def measure(params, config):
    """Bits for each byte of the held-out text, read as one; in quick mode of its beginning."""
    nats, count, state = 0.0, 0.0, rnn_lm.initial_state(params, 1)
    for batch in evaluation_batches(held_out.tokens[: 512 if QUICK else None], 256, 1):
        state, metrics = held_out_sums(params, state, batch, config)
        nats, count = nats + float(metrics.loss_sum), count + float(metrics.token_count)
    return held_out.bits_per_byte(nats / count)


def fit(config):
    """Train it; (parameters, what was measured on the way)."""
    falling = OptimizerConfig(
        learning_rate=RATES[config.cell],
        schedule="warm_down",
        warmup_steps=20,
        warmdown_share=0.6,
        final_share=0.0,
        weight_decay=0.0,
        beta_2=0.99,
        clip_norm=1.0,
    )
    optimizer = make_optimizer(falling, STEPS)

    @functools.partial(jax.jit, donate_argnums=(0, 1, 2))
    def update(params, moments, state, batch):
        gradient, (state, _) = jax.grad(rnn_lm.carried_loss, has_aux=True)(params, state, batch, config=config)
        updates, moments = optimizer.update(gradient, moments, params)
        return optax.apply_updates(params, updates), moments, state

    params = jax.jit(rnn_lm.init)(KEY, config)
    moments, state, curve = jax.jit(optimizer.init)(params), rnn_lm.initial_state(params, B), []
    for step in range(STEPS):
        params, moments, state = update(params, moments, state, batches.batch(step))
        if (step + 1) % CALL == 0:
            curve.append((step + 1, measure(params, config)))
    return params, curve


fitted = {}
for name, config in configs.items():
    fitted[name] = fit(config)
    print(f"{name:8}" + "".join(f"{bits:8.3f}" for _, bits in fitted[name][1]), flush=True)
counted = baselines(["bigram"] if QUICK else ["bigram", "5-gram"], train, held_out, tokenizer)
print(", ".join(f"{name} by Kneser-Ney {bits:.3f}" for name, bits in counted.items()))

if not QUICK:
    end = {name: curve[-1][1] for name, (_, curve) in fitted.items()}
    assert end["lstm"] < end["gru"] < end["elman"]
    assert end["gru"] < counted["bigram"]

# %% [markdown]
# With Python 3.11's documentation, after one pass through it, they need about
#
# | | state | bits per byte, seeds 0, 1, 2 |
# |---|---|---|
# | Elman | 538 | 2.136, 2.122, 2.136 |
# | GRU | 302 | 1.909, 1.911, 1.908 |
# | LSTM | 256 | 1.868, 1.869, 1.868 |
# | bigram, Kneser-Ney | | 2.019 |
# | 5-gram, Kneser-Ney | | 1.805 |
#
# The widest state predicts worst. Elman's network bears a third of the LSTM's learning rate, and one pass does not
# bring it to what a bigram knows: the gates are worth more than the numbers they are made of. Five-grams stay ahead
# of all three: counting is done after one pass, and learning is not.

# %% [markdown]
# ## How far back a lesson reaches
#
# When the model errs at a token, how loudly is the token $k$ places earlier told? One backward pass says it for all $k$
# at once: the length of $\partial \ell_t / \partial x_{t-k}$, where $x$ is the vector that was read there.


# %%
@functools.partial(jax.jit, static_argnames="config")
def reach(params, tokens, targets, config):
    """The mean length of the last loss's gradient at every step, from the last step to the first."""

    def last_losses(x):
        cell, state = CELLS[config.cell].step, rnn_lm.initial_state(params, len(tokens))
        _, y = stacked(cell, params.layers, state, x)
        return token_cross_entropy(rnn_lm.read_out(params, y[:, -1]), targets).sum()

    d_x = jax.grad(last_losses)(embed(params.embedding, tokens))
    return jnp.linalg.norm(d_x, axis=-1).mean(0)[::-1]


BACK = 8 if QUICK else 64
texts = ConsecutiveBatches(held_out.tokens, BACK, 16 if QUICK else 256).batch(0)
reaches = {name: reach(fitted[name][0], texts.tokens, texts.targets[:, -1], configs[name]) for name in configs}

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
for name, (_, curve) in fitted.items():
    left.plot(*zip(*curve, strict=True), marker="o", label=name)
    right.semilogy(reaches[name] / reaches[name][0], label=name)
for (name, bits), style in zip(counted.items(), (":", "--"), strict=False):
    left.axhline(bits, color="gray", linestyle=style, label=f"{name}, Kneser-Ney")
left.set(xlabel=f"steps of {B * T} tokens", ylabel="bits per byte of held-out text")
right.set(xlabel="tokens back", ylabel="gradient, as a share of the last token's")
left.legend()
right.legend()
figure.savefig("05_rnn_lm.png", dpi=150, bbox_inches="tight")

# %% [markdown]
# On the logarithmic scale Elman's line is straight: the gradient loses the same share with every token, and 60 tokens
# back a hundred-thousandth of it is left. That of the gated two falls steeply for some ten tokens and then hardly any
# more: about a hundredth arrives from as far as one looks. They could learn what lies so far apart, and Elman's could
# not.
#
# ## Let it write

# %%
for name, config in [*configs.items()][-1:] if QUICK else configs.items():
    written = generation.generate_text(
        rnn_lm,
        fitted[name][0],
        replace(config, context_length=64),
        tokenizer,
        ["A class is"],
        max_new_tokens=8 if QUICK else 48,
        sampler=Sampler(temperature=0.8, top_p=0.95),
        key=KEY,
    )
    print(f"{name}: A class is{written[0]}\n")

# %% [markdown]
# ## What to try next
#
# - Read the text four times instead of once (`STEPS`), and the training text begins to be known by heart. Variational
#   dropout, `rnn_lm.Config(..., dropout=0.2)` and a key for `carried_loss`, hides the same entries at every step of a
#   window. Drawn anew at each step, dropout would wash the state out: why?
# - Carry no state: hand `update` a state of zeros for each window. How much of what it remembers is older than `T`?
# - Begin an LSTM with its forget gates half shut (`b_x` of zeros). How many steps does it take to open them?
# - A state of 256 numbers has to hold whatever may be asked for later. The notebooks on sequence to sequence let the
#   reader look back instead: that is attention.
