"""What a function returns is held against its structure and shape first, and nobody is said to have raised."""

import numpy as np
import pytest

from minilm import laws
from tests.gallery import losses, recurrent
from tests.gallery.attention import scores
from tests.gallery.gradients import attention_gradient
from tests.gallery.textbook import D, attend, causal, cross_entropy, draw, rotate, self_attention, softmax
from tests.test_laws_accused import Unreadable

DECAY = (recurrent.decay, lambda: np.zeros(D))


def masked(x):
    return self_attention(x, causal(len(x)))


def padded(x, real):
    return self_attention(x, causal(len(x)) & real)


def whole(state, x):
    y = np.stack([state := recurrent.decay(state, row)[0] for row in x])
    return state, y


def lost(loss):
    """A loss for each position, which nobody summed."""
    return lambda logits, targets, weights: loss(logits, targets, weights) + 0 * weights


def seen(state, x):
    return state, masked(x)


WRONG = {
    "(h, h) for h": (
        lambda: laws.recurrence_equals_loop(lambda s, x: ((whole(s, x)[0],) * 2, whole(s, x)[1]), *DECAY, d=D),
        r"the number of arrays in the final state is 2, where the loop's has 1",
    ),
    "three for two": (
        lambda: laws.recurrence_equals_loop(lambda s, x: (*whole(s, x), 0), *DECAY, d=D),
        r"the unrolled form returned 3 things where \(state, y\) was expected",
    ),
    "a cell that returns its state": (
        lambda: laws.recurrence_equals_loop(whole, lambda s, x: None, DECAY[1], d=D),
        r"the cell returned NoneType where \(state, y\) was expected",
    ),
    "a step that returns its output": (
        lambda: laws.cached_equals_full(masked, lambda s, x: 1.0, lambda: None, d=D),
        r"the step returned float where \(state, y\) was expected",
    ),
    "a state of one half": (
        lambda: laws.final_state_ignores_padding(lambda x, n: (x[0],) * (1 + (len(x) > n)), d=D),
        r"the number of arrays in the state is 2, where the state without padding has 1",
    ),
    "a cell without an output": (
        lambda: laws.same_cell(lambda s, x: s, recurrent.decay, d=D, states=lambda rng: rng.normal(size=D)),
        r"the number of arrays in the first cell's result is 1, where the second's has 2",
    ),
    "the real rows alone": (
        lambda: laws.padding_ignored(lambda x, real: padded(x, real)[real], d=D),
        r"the output of 2 tokens, 1 of them real, has shape \(1, 4\) where \(2, ...\) was expected",
    ),
    "the first document alone": (
        lambda: laws.documents_kept_apart(lambda x, document: x[document == 0], d=D),
        r"the output of 2 tokens has shape \(1, 4\) where \(2, ...\) was expected",
    ),
    "the last row alone, permuted": (
        lambda: laws.permutation_equivariance(lambda x: x[:1], d=D),
        r"the output has shape \(1, 4\) where \(2, ...\) was expected",
    ),
    "the last row alone, of a window": (
        lambda: laws.window_honoured(lambda x: masked(x)[:1], w=3, d=D),
        r"the output has shape \(1, 4\) where \(4, ...\) was expected",
    ),
    "the first query alone": (
        lambda: laws.everything_seen_counts(lambda q, k, v, mask: attend(q, k, v, mask)[:1]),
        r"the output has shape \(1, 3\) where \(3, ...\) was expected",
    ),
    "the rows that see something": (
        lambda: laws.empty_rows_give_zero(lambda q, k, v, mask: attend(q, k, v, mask)[mask.any(1)]),
        r"the output has shape \(0, 3\) where \(1, ...\) was expected",
    ),
    "two gradients of three": (
        lambda: laws.empty_rows_have_finite_gradients(lambda *a: attention_gradient(*a)[:2]),
        r"the number of arrays in the gradient is 2, where \(d_q, d_k, d_v\) has 3",
    ),
    "one gradient of three": (
        lambda: laws.attention_gradient_equals_differences(attend, lambda *a: attention_gradient(*a)[0]),
        r"the number of arrays in the gradient is 1, where the input has 3",
    ),
    "a loss for each position": (
        lambda: laws.non_negative(lost(cross_entropy)),
        r"the loss has shape \(2,\) where one number was expected",
    ),
    "a surprise for each position": (
        lambda: laws.equals_minus_log_p(lost(cross_entropy)),
        r"the loss has shape \(1,\) where \(\) was expected",
    ),
    "a gradient that was summed": (
        lambda: laws.gradient_sums_to_zero(lambda *batch: losses.gradient(lambda w: w)(*batch).sum(0)),
        r"the gradient has shape \(5,\) where \(1, 5\) was expected",
    ),
    "one row of a rotation": (
        lambda: laws.rotary_depends_on_distance(lambda x, position: rotate(x, position)[0]),
        r"what was rotated has shape \(4,\) where \(2, 4\) was expected",
    ),
    "a token for each logit": (
        lambda: laws.support(lambda key, logits: np.full(len(logits), draw(key, logits))),
        r"what was drawn has shape \(6,\) where one token was expected",
    ),
    "outputs with their weights": (
        lambda: laws.shape_kept(lambda x: (masked(x), None), d=D),
        r"what the function returned is no array of numbers that NumPy reads: ValueError",
    ),
    "nothing at all": (
        lambda: laws.determinism(lambda x: None, d=D),
        r"what the function returned is no array of numbers that NumPy reads: TypeError",
    ),
    "what lies on a device": (
        lambda: laws.determinism(lambda x: Unreadable(x), d=D),
        r"what the function returned is no array of numbers that NumPy reads: TypeError: can't convert cuda:0",
    ),
    "a number for a sequence": (
        lambda: laws.order_of_examples_irrelevant(lambda x: x.sum(), d=D),
        r"the function, or reading what it returned, raised IndexError",
    ),
}


@pytest.mark.parametrize(("check", "sentence"), WRONG.values(), ids=WRONG)
def test_another_structure_or_shape_is_what_the_sentence_says(check, sentence):
    with pytest.raises(laws.LawBroken, match=sentence) as caught:
        check()
    assert "the function raised" not in caught.value.sentence


def test_an_error_is_the_functions_own_where_its_code_ran():
    table = np.zeros((2, D))
    with pytest.raises(laws.LawBroken, match="the function raised IndexError: index 2 is out of bounds"):
        laws.determinism(lambda x: x + table[np.arange(len(x))], d=D)
    with pytest.raises(laws.LawBroken, match="the function raised ValueError: need at least one array"):
        laws.determinism(lambda x: np.stack(list(x[1:])), d=D)
    with pytest.raises(laws.LawBroken, match="the function, or reading what it returned, raised TypeError"):
        laws.determinism(float, d=D)


def test_structures_that_hold_the_same_arrays_are_the_same():
    laws.recurrence_equals_loop(lambda s, x: [[whole(s, x)[0]], whole(s, x)[1].tolist()], *DECAY, d=D)
    laws.final_state_ignores_padding(lambda x, n: {"h": x[n - 1], "c": None}, d=D)
    laws.same_cell(lambda s, x: [s, [x]], lambda s, x: {"state": s, "y": x}, d=D, states=lambda rng: rng.normal(size=D))
    laws.attention_gradient_equals_differences(attend, lambda *a: list(attention_gradient(*a)))
    laws.non_negative(lambda *batch: np.array([cross_entropy(*batch)]))
    laws.determinism(lambda x: x.astype(object), d=D)
    laws.weights_sum_to_one(lambda x: softmax(scores(x, x)).tolist(), d=D)
