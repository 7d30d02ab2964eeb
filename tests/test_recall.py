"""Tasks of recall ask for what the text has told, at known places, and for nothing else."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilm.data.recall import MQAR, Induction, SelectiveCopy, spread
from tests.tolerances import SAMPLING

TASKS = [
    MQAR(vocab_size=22, length=26, pairs=5),
    SelectiveCopy(vocab_size=7, length=17, pairs=3),
    Induction(vocab_size=5, length=13),
]
each_task = pytest.mark.parametrize("task", TASKS, ids=lambda task: type(task).__name__)
seeds, steps = st.integers(0, 2**63), st.integers(0, 10**12)


@st.composite
def mqar(draw):
    pairs = draw(st.integers(1, 9))
    return MQAR(2 * pairs + 2 + draw(st.integers(0, 9)), 4 * pairs + draw(st.integers(0, 9)), pairs)


@given(mqar(), seeds, steps)
def test_each_key_is_asked_for_once_and_the_target_is_its_value(task, seed, step):
    tokens, places, targets, *_ = task.batch(seed, step, rows=3)
    told = 2 * task.pairs
    for row, where, wanted in zip(tokens, places, targets, strict=True):
        value_of = dict(zip(row[:told:2].tolist(), row[1:told:2].tolist(), strict=True))
        assert len(value_of) == len({*value_of.values()}) == task.pairs
        assert [value_of[key] for key in row[where].tolist()] == wanted.tolist()
        assert sorted(row[where].tolist()) == sorted(value_of)
        assert not np.delete(row[told:], where - told).any()


@given(mqar(), seeds, steps)
def test_keys_values_and_filler_are_told_apart_by_the_vocabulary(task, seed, step):
    tokens, places, targets, *_ = task.batch(seed, step, rows=3)
    half, told = task.vocab_size // 2, 2 * task.pairs
    keys = tokens[:, :told:2]
    assert ((keys >= 1) & (keys < half)).all()
    assert ((targets >= half) & (targets < task.vocab_size)).all()
    assert ((places >= told) & (places % 2 == 0)).all()


def test_the_first_slot_is_drawn_as_often_as_the_power_law_says():
    task = MQAR(length=64, pairs=1)
    slot = task.batch(seed=0, step=0, rows=9_000).places[:, 0] // 2 - 1
    p = np.arange(1, 32) ** -0.99
    assert np.abs(np.bincount(slot, minlength=31) / len(slot) - p / p.sum()).max() < SAMPLING


@given(st.integers(1, 6), st.integers(0, 9), st.integers(4, 9), seeds)
def test_copied_tokens_stand_among_blanks_in_the_order_in_which_they_are_asked_for(pairs, more, vocab_size, seed):
    task = SelectiveCopy(vocab_size, 2 * pairs + 1 + more, pairs)
    tokens, places, targets, *_ = task.batch(seed, step=1, rows=3)
    mark = task.length - pairs - 1
    assert (tokens[:, mark] == vocab_size - 1).all()
    assert not tokens[:, mark + 1 :].any()
    assert (places == np.arange(mark + 1, task.length)).all()
    assert [row[row > 0].tolist() for row in tokens[:, :mark]] == targets.tolist()
    assert targets.max() < vocab_size - 1


def test_a_token_to_copy_stands_anywhere_before_the_mark_with_equal_probability():
    task = SelectiveCopy(length=17, pairs=5)
    where = (task.batch(seed=0, step=0, rows=9_000).tokens[:, :11] > 0).mean(0)
    assert np.abs(where - 5 / 11).max() < SAMPLING


@given(st.integers(3, 20), st.integers(3, 9), seeds)
def test_the_special_token_stands_twice_and_its_successor_is_asked_for(length, vocab_size, seed):
    tokens, places, targets, *_ = Induction(vocab_size, length).batch(seed, step=2, rows=5)
    assert ((tokens == 0).sum(1) == 2).all()
    assert (places == length - 1).all()
    for row, target in zip(tokens, targets[:, 0], strict=True):
        first, last = np.flatnonzero(row == 0)
        assert (last, row[first + 1]) == (length - 1, target)


def test_a_window_reaches_the_answer_of_induction_in_its_share_of_the_texts():
    task, reaches = Induction(length=64), np.arange(1, 63)
    within = task.batch(seed=0, step=0, rows=9_000).distances <= reaches
    assert np.abs(within.mean(0) - reaches / 62).max() < SAMPLING


@each_task
@given(seeds, steps)
def test_the_answer_stands_as_far_back_as_is_said(task, seed, step):
    tokens, places, targets, _, distances = task.batch(seed, step, rows=3)
    assert (distances > 0).all()
    assert (np.take_along_axis(tokens, places - distances, axis=1) == targets).all()


@each_task
def test_places_rise_and_only_they_have_weight(task):
    questions = task.batch(seed=1, step=2, rows=4)
    assert (np.diff(questions.places, axis=1) > 0).all()
    assert (questions.weights == 1).all()
    batch = spread(questions)
    assert batch.weights.sum() == questions.weights.size
    for row, places in enumerate(questions.places):
        assert np.flatnonzero(batch.weights[row]).tolist() == places.tolist()
        assert batch.targets[row, places].tolist() == questions.targets[row].tolist()


@each_task
@given(seeds, steps)
def test_a_batch_is_a_function_of_seed_and_step(task, seed, step):
    first = task.batch(seed, step, rows=3)
    task.batch(seed + 1, step, rows=5)
    assert all(
        (a == b).all() and a.dtype == b.dtype for a, b in zip(first, task.batch(seed, step, rows=3), strict=True)
    )
    for other in (task.batch(seed + 1, step, rows=3), task.batch(seed, step + 1, rows=3)):
        assert (other.tokens != first.tokens).any()


@each_task
def test_chance_is_how_often_any_value_of_the_text_is_the_right_one(task):
    """Over all the values that a text has, not one drawn of them: the mean is then that much surer."""
    tokens, _, targets, *_ = task.batch(seed=0, step=0, rows=9_000)
    data = {MQAR: tokens[:, 1 : 2 * task.pairs : 2], SelectiveCopy: targets, Induction: tokens[:, :-1]}[type(task)]
    values = np.ma.masked_equal(data, 0)
    right = (values[:, None] == targets[..., None]).mean()
    assert abs(right - task.chance.value) < SAMPLING * task.chance.value
    assert task.chance.token == 1 / task.vocab_size < task.chance.value


@each_task
def test_sizes_that_hold_no_question_are_refused(task):
    with pytest.raises(ValueError, match=r"tokens or more, but the length is 2\."):
        replace(task, length=2)
    with pytest.raises(ValueError, match=r"takes a vocabulary of \d+ or more, but it is 2\."):
        replace(task, vocab_size=2)
    with pytest.raises(ValueError, match="Seeds and steps count from 0, but seed 0 and step -1 were asked for"):
        task.batch(0, -1)


def test_four_tokens_a_pair_are_enough_and_fewer_are_refused():
    MQAR(length=64, pairs=16)
    with pytest.raises(ValueError, match="MQAR of 16 to recall takes 64 tokens or more, but the length is 63"):
        MQAR(length=63, pairs=16)
    with pytest.raises(ValueError, match="SelectiveCopy needs something to recall, but pairs is 0: give 1 or more"):
        SelectiveCopy(pairs=0)
