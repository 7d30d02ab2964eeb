"""A cache that rolls is asked after it has rolled; one that is large enough, or says what it cannot take, is right."""

import numpy as np
import pytest

from minilm import laws
from tests.gallery.caches import ring
from tests.gallery.mixers import windowed
from tests.gallery.textbook import D

FEW = laws.Search(examples=10)


def check(cache, w, search=FEW):
    mixer, step, init_state = cache
    return laws.check(mixer, d=D, causal=True, window=w, step=step, init_state=init_state, search=search)


@pytest.mark.parametrize(("w", "slots"), [(6, 5), (8, 7), (8, 9), (8, 14), (16, 15), (16, 30), (50, 65)])
def test_a_cache_too_small_for_its_window_is_found_once_it_has_rolled(w, slots):
    report = check(ring(slots, w), w)
    assert [error.law for error in report.broken] == ["cached equals full"]
    assert f"of {w + 16} tokens, read in pieces of" in report.broken[0].sentence


@pytest.mark.parametrize("w", [1, 2, 3, 6, 8, 16, 17, 50])
def test_a_cache_of_just_the_slots_that_it_needs_is_right(w):
    # For pieces of five, the longest of the usual lengths, and for pieces of a window.
    check(ring(max(2 * w - 1, w + 4), w), w).raise_if_broken()
    check(ring(max(w - 1, 1), w, written_first=False), w).raise_if_broken()


@pytest.mark.parametrize("longest", [5, 7, 8, 12])
def test_a_piece_that_is_refused_by_an_error_is_not_asked(longest):
    refused = []
    mixer, step, init_state = ring(7, 8, written_first=False, longest=longest)
    counted = lambda state, x: refused.append(len(x) > longest) or step(state, x)  # noqa: E731
    check((mixer, counted, init_state), 8).raise_if_broken()
    assert any(refused)


def test_an_error_in_the_midst_of_a_sequence_is_no_refusal():
    def across(position, slots):
        start = position[0] % slots
        return slice(start, start + len(position))

    report = check(ring(16, 8, place=across), 8)
    assert "could not broadcast input array" in report.broken[0].sentence


def test_lengths_of_your_own_say_how_long_a_piece_and_a_sequence_may_be():
    asked = []
    mixer, step, init_state = ring(12, 8)
    counted = lambda state, x: asked.append(len(x)) or step(state, x)  # noqa: E731
    with pytest.raises(laws.LawBroken, match=r"shorter pieces, are asked with `search=Search\(lengths=...\)`"):
        check((mixer, counted, init_state), 8).raise_if_broken()
    asked.clear()
    check((mixer, counted, init_state), 8, laws.Search(lengths=(1, 2, 5), examples=10)).raise_if_broken()
    assert max(asked) == 5
    assert asked[-3:] == [1, 5, 5], "three tokens more than the window"


def test_a_state_that_holds_twelve_tokens_is_asked_of_twelve():
    def step(state, x):
        past, rows = state
        rows = rows.copy()
        rows[np.arange(past, past + len(x))] = x
        return (past + len(x), rows), windowed(8)(rows[: past + len(x)])[past:]

    cache = windowed(8), step, lambda: (0, np.zeros((12, D)))
    check(cache, 8, laws.Search(lengths=(1, 2, 12), examples=10)).raise_if_broken()
    with pytest.raises(
        laws.LawBroken, match=r"raised IndexError: .* \(fewer tokens, or shorter pieces, are asked with"
    ):
        check(cache, 8).raise_if_broken()


def by_token(cache):
    """The same cache, read token by token."""
    mixer, step, init_state = cache

    def single(state, x):
        state, y = step(state, x[None])
        return state, y[0]

    return mixer, laws.by_token(single), init_state


def test_a_step_of_single_tokens_reads_any_piece():
    check(by_token(ring(8, 8)), 8).raise_if_broken()
    with pytest.raises(laws.LawBroken, match="output 7 of 24 tokens, read in pieces of 1, 1, 1"):
        check(by_token(ring(7, 8)), 8).raise_if_broken()


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_cache_of_coarser_numbers_is_right(dtype):
    mixer, step, init_state = ring(15, 8)

    def rounded(state, x):
        state, y = step(state, x)
        return state, y.astype(dtype)

    check((lambda x: mixer(x).astype(dtype), rounded, init_state), 8).raise_if_broken()
    check((mixer, step, init_state), 8, laws.Search(examples=10, dtype=dtype)).raise_if_broken()


def test_a_window_below_one_is_refused():
    with pytest.raises(ValueError, match="at least 1, but it is 0"):
        laws.cached_equals_full(*ring(15, 8), d=D, w=0)
