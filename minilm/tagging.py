"""From texts with spans to a trained tagger, and back from its tags to spans.

    names = ["O", "B-PER", "I-PER", "E-PER", "S-PER"]
    batches = span_batches(tokens, spans, names, sizes, places=4096)
    params = fit(config, batches, optimizer, steps=1000)
    found, broken = predict(params, batches, names, config=config)

Tags are BIOES, whose spans `minilm.metrics.spans` reads and writes; words without an outside have B, I, E and S alone.
"""

from collections.abc import Sequence
from functools import partial

import jax
import numpy as np
import optax

from minilm import training
from minilm.data.padding import Padded, PaddedBatches
from minilm.metrics.spans import Span, bioes_tags, lenient_spans
from minilm.models import tagger


def span_batches(
    tokens: Sequence[np.ndarray],
    spans: Sequence[Sequence[Span]],
    names: Sequence[str],
    sizes: tuple[int, ...],
    places: int,
    seed: int = 0,
) -> PaddedBatches:
    """Batches of texts of about the same length, with the number of each place's tag.

    Args:
      tokens: of each text, `(t,)` or `(t, m)`.
      spans: of each text.
      names: the tags, numbered in this order.
      sizes, places, seed: as for `PaddedBatches`.
    Raises:
      ValueError: the spans need a tag that has no name, or as `bioes_tags` and `PaddedBatches` raise it.
    """
    number = {name: i for i, name in enumerate(names)}
    tags = [bioes_tags(of_one, len(text)) for of_one, text in zip(spans, tokens, strict=True)]
    if unnamed := {tag for of_one in tags for tag in of_one} - number.keys():
        raise ValueError(
            f"The spans need the tags {', '.join(sorted(unnamed))}, and there are {', '.join(names)}: name them all."
        )
    return PaddedBatches((tokens, [np.array([number[t] for t in of_one]) for of_one in tags]), sizes, places, seed)


def as_batch(padded: Padded) -> tagger.Batch:
    """What the model learns from."""
    tokens, tags = padded.columns
    return tagger.Batch(tokens, padded.length, tags, padded.place_weights)


def fit(
    config: tagger.Config,
    batches: PaddedBatches,
    optimizer: optax.GradientTransformation,
    steps: int,
    seed: int = 0,
) -> tagger.Params:
    """The parameters after so many steps; the seed draws the first ones, and the batches' the order of the texts."""
    step = training.make_step(partial(tagger.loss, config=config), optimizer, seed)
    state = jax.jit(lambda key: training.init_state(tagger.init(key, config), optimizer))(jax.random.key(seed))
    for k in range(steps):
        # Two leading axes, of one step and one part: the sizes of two batches may differ.
        state, _ = step(state, jax.tree.map(lambda leaf: leaf[None, None], as_batch(batches.batch(k))))
    return jax.block_until_ready(state.params)


def predict(
    params: tagger.Params, batches: PaddedBatches, names: Sequence[str], *, config: tagger.Config
) -> tuple[list[list[Span]], int]:
    """The spans of each text, and in how many texts the tags contradict each other, so that they spell no spans.

    Where they do, spans are read as `lenient_spans` reads them.
    """
    rows = batches.each_text(lambda padded: _decode(params, padded.columns[0], padded.length, config=config))
    tags = [[names[int(i)] for i in row[:n]] for row, n in zip(rows, batches.lengths, strict=True)]
    spans = [lenient_spans(of_one) for of_one in tags]
    return spans, sum(bioes_tags(s, len(t)) != t for s, t in zip(spans, tags, strict=True))


_decode = jax.jit(tagger.decode)  # compiled once for all that ask
