"""Laws of the cross-entropy: any loss(logits: (t, n), targets: (t,), weights: (t,) of 0 and 1) -> mean, in nats."""

from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st

from minilm.laws.search import BITWISE, USUAL, Search, apart, forall, off_slope
from minilm.laws.structure import array, number, shaped

VOCABULARY = 5


def non_negative(loss: Callable, *, n: int = VOCABULARY, search: Search = USUAL) -> None:
    r"""No prediction is better than certain and right.

    $$ \ell(z, y, w) \ge 0 $$
    """

    def violation(logits, targets, weights):
        value = number(loss(logits, targets, weights), "the loss")
        return None if value >= 0 else f"the loss is {value:.3g}"

    forall("non negative", _batches(n, search), violation, search)


def equals_minus_log_p(loss: Callable, *, smoothing: float = 0.0, n: int = VOCABULARY, search: Search = USUAL) -> None:
    r"""The loss is the mean surprise of the targets, smoothed by ε towards the uniform, also where exp overflows.

    $$ \ell = \sum_i w_i \ell_i \Big/ \sum_i w_i, \qquad
       \ell_i = -(1 - \epsilon) \log p_{i, y_i} - \tfrac \epsilon n \sum_j \log p_{ij} $$
    """

    def violation(logits, targets, weights):
        z = logits.astype(np.float64) - logits.max(-1, keepdims=True)
        surprise = np.log(np.exp(z).sum(-1, keepdims=True)) - z
        each = (1 - smoothing) * surprise[np.arange(len(z)), targets] + smoothing * surprise.mean(-1)
        actual = shaped(loss(logits, targets, weights), (), "the loss")
        phrase = apart(actual, np.asarray((weights * each).sum() / weights.sum()), inputs=(logits,))
        return phrase and f"the loss, {float(actual):.6g}, {phrase} from the mean of -log p"

    forall("equals minus log p", _batches(n, search), violation, search)


def ignored_positions_do_not_count(loss: Callable, *, n: int = VOCABULARY, search: Search = USUAL) -> None:
    r"""A position of weight 0 might as well not exist: neither its logits nor its target nor its number matter.

    $$ \ell(z, y, w) = \ell(z_{w > 0}, y_{w > 0}, \mathbf 1) $$
    """

    def violation(logits, targets, weights):
        kept = weights > 0
        expected = array(loss(logits[kept], targets[kept], weights[kept]))
        phrase = apart(loss(logits, targets, weights), expected, inputs=(logits[kept],))
        return phrase and f"the loss {phrase} from the loss without the ignored positions"

    forall("ignored positions do not count", _batches(n, search), violation, search)


def all_ignored_gives_zero(loss: Callable, *, n: int = VOCABULARY, search: Search = USUAL) -> None:
    r"""Nothing to predict costs nothing: 0, not 0/0. One such batch otherwise turns every weight into NaN.

    $$ \ell(z, y, \mathbf 0) = 0 $$
    """

    def violation(logits, targets, weights):
        value = number(loss(logits, targets, 0 * weights), "the loss")
        return None if value == 0 else f"the loss is {value:.3g} when every position is ignored, where 0 was expected"

    forall("all ignored gives zero", _batches(n, search), violation, search)


def all_ignored_gives_no_gradient(grad: Callable, *, n: int = VOCABULARY, search: Search = USUAL) -> None:
    r"""Nothing to predict teaches nothing: `grad(logits, targets, weights) -> (t, n)` is 0 there, and not NaN.

    $$ \partial \ell(z, y, \mathbf 0) / \partial z = 0 $$

    A 0/0 that the loss hides behind a `where` comes back here as 0·NaN, and poisons every weight.
    """

    def violation(logits, targets, weights):
        d_logits = array(grad(logits, targets, 0 * weights))
        phrase = apart(d_logits, np.zeros_like(d_logits), BITWISE)
        return phrase and f"the gradient {phrase} when every position is ignored, where 0 was expected"

    forall("all ignored gives no gradient", _batches(n, search), violation, search)


def order_of_positions_irrelevant(loss: Callable, *, n: int = VOCABULARY, search: Search = USUAL) -> None:
    r"""A mean knows no order.

    $$ \ell(z_\pi, y_\pi, w_\pi) = \ell(z, y, w) $$
    """

    def violation(logits, targets, weights):
        reverse = array(loss(logits[::-1].copy(), targets[::-1].copy(), weights[::-1].copy()))
        phrase = apart(loss(logits, targets, weights), reverse, inputs=(logits,))
        return phrase and f"the loss {phrase} from the loss of the positions in reverse order"

    forall("order of positions irrelevant", _batches(n, search), violation, search)


def gradient_sums_to_zero(grad: Callable, *, n: int = VOCABULARY, search: Search = USUAL) -> None:
    r"""Logits that rise together change nothing: each row of `grad(logits, targets, weights) -> (t, n)` sums to 0.

    $$ \sum_j \partial \ell / \partial z_{ij} = 0, \qquad w_i = 0 \implies \partial \ell / \partial z_i = 0 $$

    Both follow from dl/dz = w (p - y) / sum w, and no more: whether it is the loss's gradient, and not seven times
    that, or zeros, is for `loss_gradient_equals_differences` to say.
    """

    def violation(logits, targets, weights):
        d_logits = shaped(grad(logits, targets, weights), logits.shape, "the gradient")
        phrase = apart(d_logits.sum(-1), np.zeros(len(targets), d_logits.dtype), inputs=(np.ones(1),))
        if phrase:
            return f"the sum of a row of the gradient {phrase} from 0"
        ignored = np.abs(d_logits[weights == 0]).max(initial=0)
        return f"the gradient at an ignored position is {ignored:.3g}, not 0" if ignored else None

    forall("gradient sums to zero", _batches(n, search), violation, search)


def loss_gradient_equals_differences(
    loss: Callable, grad: Callable, *, n: int = VOCABULARY, search: Search = USUAL
) -> None:
    r"""The gradient is the loss's own, whatever the loss: `grad(logits, targets, weights)` agrees with differences.

    $$ \Big\langle \frac{\partial \ell}{\partial z}, v \Big\rangle = \frac{\ell(z + h v) - \ell(z - h v)}{2 h},
       \qquad h = u^{1/3} $$

    Of the plain cross-entropy it is w (p - y) / sum w; smoothed, or with a penalty on the logits, it is another.
    """

    @st.composite
    def inputs(draw):
        batch = draw(_batches(n, search))
        rng = np.random.default_rng(draw(st.integers(0, 99)))
        return {**batch, "v": rng.normal(size=batch["logits"].shape).astype(search.dtype)}

    def violation(logits, targets, weights, v):
        given, loudest = grad(logits, targets, weights), float(np.abs(logits).max())
        return off_slope(lambda z: loss(z, targets, weights), (logits,), 1.0, (given,), (v,), loudest)

    forall("loss gradient equals differences", inputs(), violation, search)


@st.composite
def _batches(draw, n, search):
    t = draw(search.length())
    weights = np.array(draw(st.lists(st.sampled_from([1, 0]), min_size=t, max_size=t)), search.dtype)
    weights[draw(st.integers(0, t - 1))] = 1
    targets = np.array(draw(st.lists(st.integers(0, n - 1), min_size=t, max_size=t)), np.int32)
    return {"logits": draw(search.loud(t, n)), "targets": targets, "weights": weights}
