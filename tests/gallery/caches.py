"""Planted bugs of caches that roll: each is right until a window of eight tokens has slid, or a piece is cut badly."""

import numpy as np

from minilm import laws
from tests.gallery import plant
from tests.gallery.mixers import windowed
from tests.gallery.textbook import W_K, W_Q, W_V, D, attend

W = 8


def modulo(position, slots):
    return position % slots


def ring(slots, w=W, *, written_first=True, place=modulo, longest=None):
    """A rolling cache of so many slots, beside the mixer that it serves.

    Written first, a piece stands in the cache before its queries look, which takes w + t − 1 slots for a piece of t;
    written last, it stands beside the cache, and w − 1 slots do. `place` says which slots its tokens take.
    """

    def step(state, x):
        past, held, at = state
        if longest and len(x) > longest:
            raise ValueError(f"a piece of {len(x)} tokens does not fit a cache of {slots} slots")
        here = past + np.arange(len(x))
        rows, position = held.copy(), at.copy()
        rows[place(here, slots)], position[place(here, slots)] = x, here
        keys, key = (rows, position) if written_first else (np.concatenate([held, x]), np.concatenate([at, here]))
        seen = (key >= 0) & (key <= here[:, None]) & (here[:, None] - key < w)
        return (past + len(x), rows, position), attend(x @ W_Q, keys @ W_K, keys @ W_V, seen)

    return windowed(w), step, lambda: (0, np.zeros((slots, D)), np.full(slots, -1))


@plant(laws.cached_equals_full, d=D, w=W)
def a_slot_too_few_for_the_window():
    """A token leaves the cache one step before it leaves the window, which nobody sees until both are full. (No thread
    known to us; transformers pull request 47708 mends a ring that was read and written one slot away.)"""
    return ring(W - 2, written_first=False), ring(W - 1, written_first=False)


@plant(laws.cached_equals_full, d=D, w=W)
def a_piece_that_overwrites_what_its_first_queries_need():
    """A ring of the window's size, into which a whole piece is written before its first query looks: executorch pull
    request 20346, litgpt issue 2182."""
    return ring(W), ring(2 * W - 1)


@plant(laws.cached_equals_full, d=D, w=W)
def room_for_a_piece_of_two():
    """One slot more than the window, of which single tokens and pairs notice nothing. The twin looks at a piece beside
    the cache, for the reason that transformers pull request 40893 tells."""
    return ring(W + 1), ring(W - 1, written_first=False)


@plant(laws.cached_equals_full, d=D, w=W)
def a_piece_written_across_the_end():
    """`dynamic_update_slice` moves what would reach beyond the end, as JAX says and mixers forget: a piece that goes
    round the ring lands beside its slots. (No thread known to us.)"""
    clamped = lambda position, slots: min(position[0] % slots, slots - len(position)) + np.arange(len(position))  # noqa: E731
    return ring(2 * W, place=clamped), ring(2 * W)


@plant(laws.cached_equals_full, d=D, w=W)
def a_long_prompt_that_starts_at_slot_zero():
    """A prompt longer than the window leaves its last tokens in the first slots, and the next token overwrites another
    than the oldest: mlx-vlm issue 1715 has a ring whose index is stale. The twin refuses such a prompt, as litgpt does
    since pull request 2215."""

    def from_zero(position, slots):
        return (position - max(len(position) - slots, 0) if position[0] == 0 else position) % slots

    return ring(W, written_first=False, place=from_zero), ring(2 * W - 1, longest=W)
