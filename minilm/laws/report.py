"""Every law that applies, in one call and one table: what holds, what is broken, and what nobody checked."""

from collections.abc import Callable
from dataclasses import dataclass

from minilm.laws import attention, dependence, equality, losses, normalization, sampling, tokenization
from minilm.laws.search import USUAL, LawBroken, Search


@dataclass(frozen=True)
class Finding:
    """One law's outcome: it holds, is broken (by `error`), or was not checked (for want of `missing`)."""

    law: str
    error: LawBroken | None = None
    missing: str = ""

    @property
    def checked(self) -> bool:
        """Whether the law was run at all."""
        return not self.missing

    def __str__(self):
        if self.missing:
            return f"not checked: give {self.missing}"
        return f"BROKEN: {self.error.sentence}" if self.error else "holds"


@dataclass(frozen=True)
class Report:
    """The findings of a check. It prints as a table; what was not given is reported as not checked, never as passed."""

    findings: tuple[Finding, ...]

    @property
    def broken(self) -> tuple[LawBroken, ...]:
        """The broken laws' errors, each with its sentence and its smallest input."""
        return tuple(finding.error for finding in self.findings if finding.error)

    @property
    def not_checked(self) -> tuple[str, ...]:
        """The names of the laws for which something was missing."""
        return tuple(finding.law for finding in self.findings if not finding.checked)

    def raise_if_broken(self) -> "Report":
        """Raise the first broken law, input and all; else return the report itself. One line for a test suite."""
        if self.broken:
            raise self.broken[0]
        return self

    def __str__(self):
        width = max(len(finding.law) for finding in self.findings)
        holding = len(self.findings) - len(self.broken) - len(self.not_checked)
        summary = f"{holding} hold, {len(self.broken)} broken, {len(self.not_checked)} not checked"
        return "\n".join([*(f"{finding.law:<{width}}  {finding}" for finding in self.findings), "", summary])


def check(
    mixer: Callable,
    *,
    d: int,
    causal: bool = False,
    window: int | None = None,
    equivariant: bool = False,
    weights: Callable | None = None,
    grad: Callable | None = None,
    step: Callable | None = None,
    init_state: Callable | None = None,
    padded: Callable | None = None,
    packed: Callable | None = None,
    batched: Callable | None = None,
    other: Callable | None = None,
    search: Search = USUAL,
) -> Report:
    """Hold a sequence mixer f(x: (t, d)) -> (t, d) against every law for which you give what it needs.

    Args:
      mixer: the function; NumPy goes in, anything that NumPy can read comes out.
      d: the width of its input.
      causal: claims that no output depends on a later input.
      window: claims that output i depends on exactly the inputs i − window + 1 to i; 1 if it means to mix nothing.
        Asked of window + 16 tokens, or of the longest of `search.lengths` if they are your own; of `step` too.
      equivariant: claims that it has neither positions nor a mask.
      weights: x -> (..., t, s), the attention weights.
      grad: (x, d_y) -> d_x, its gradient.
      step: (state, x: (any t, d)) -> (state, y), with `init_state`: () -> state.
      padded: (x, real: (t,) of bool) -> y, where only real rows count; the mixer, if all are real.
      packed: (x, document: (t,)) -> y, where documents do not see each other; the mixer, if there is but one.
      batched: (b, t, d) -> (b, t, d), the mixer of each.
      other: x -> y, another implementation of the same mathematics.
      search: lengths, number of examples and dtype of the inputs.
    Returns:
      A `Report`, one finding for each law.
    """
    common = {"d": d, "search": search}
    return Report(
        (
            _try(dependence.shape_kept, mixer, **common),
            _try(dependence.determinism, mixer, **common),
            _try(dependence.positions_mixed, mixer, needs={"window=2 or more": window != 1}, **common),
            _try(dependence.causality, mixer, needs={"causal=True": causal}, **common),
            _try(dependence.prefix_equals_whole, mixer, needs={"causal=True": causal}, **common),
            _try(dependence.causality_of_gradient, grad, needs={"causal=True": causal, "grad=": grad}, **common),
            _try(dependence.window_honoured, mixer, needs={"window=": window}, w=window, **common),
            _try(dependence.permutation_equivariance, mixer, needs={"equivariant=True": equivariant}, **common),
            _try(equality.weights_sum_to_one, weights, needs={"weights=": weights}, **common),
            _try(equality.gradient_equals_differences, mixer, grad, needs={"grad=": grad}, **common),
            _try(
                equality.cached_equals_full,
                mixer,
                step,
                init_state,
                needs={"step=": step, "init_state=": init_state},
                w=window,
                **common,
            ),
            _try(dependence.padding_ignored, padded, needs={"padded=": padded}, mixer=mixer, **common),
            _try(dependence.documents_kept_apart, packed, needs={"packed=": packed}, mixer=mixer, **common),
            _try(equality.batch_equals_one_by_one, batched, needs={"batched=": batched}, mixer=mixer, **common),
            _try(equality.order_of_examples_irrelevant, batched, needs={"batched=": batched}, **common),
            _try(equality.agreement, mixer, other, needs={"other=": other}, **common),
        )
    )


def check_attention(
    attend: Callable,
    *,
    grad: Callable | None = None,
    other: Callable | None = None,
    k: int = 2,
    v: int = 3,
    search: Search = USUAL,
) -> Report:
    """Hold attend(q: (t, k), k: (s, k), v: (s, v), mask: (t, s)) -> (t, v) against its laws; `other` is its twin.

    `grad(q, k, v, mask, d_o) -> (d_q, d_k, d_v)` is its gradient.
    """
    common = {"k": k, "v": v, "search": search}
    return Report(
        (
            _try(attention.masking_equals_removing, attend, **common),
            _try(attention.everything_seen_counts, attend, **common),
            _try(attention.empty_rows_give_zero, attend, **common),
            _try(attention.empty_rows_have_finite_gradients, grad, needs={"grad=": grad}, **common),
            _try(attention.attention_gradient_equals_differences, attend, grad, needs={"grad=": grad}, **common),
            _try(attention.same_attention, attend, other, needs={"other=": other}, **common),
        )
    )


def check_norm(norm: Callable, *, d: int, centred: bool = False, search: Search = USUAL) -> Report:
    """Hold norm(x: (..., d)) -> (..., d), of scale 1 and bias 0, against its laws; `centred`: it removes the mean."""
    common = {"d": d, "search": search}
    return Report(
        (
            _try(normalization.scale_invariance, norm, **common),
            _try(normalization.unit_output, norm, **common),
            _try(normalization.direction_kept, norm, centred=centred, **common),
            _try(normalization.finite_on_constants, norm, **common),
            _try(normalization.shift_invariance, norm, needs={"centred=True": centred}, **common),
            _try(normalization.accurate_far_from_zero, norm, needs={"centred=True": centred}, **common),
        )
    )


def check_loss(
    loss: Callable, *, grad: Callable | None = None, smoothing: float = 0.0, n: int = 5, search: Search = USUAL
) -> Report:
    """Hold a cross-entropy loss(logits: (t, n), targets: (t,), weights: (t,)) -> mean in nats against its laws.

    `grad(logits, targets, weights) -> (t, n)` is its gradient.
    """
    common = {"n": n, "search": search}
    return Report(
        (
            _try(losses.non_negative, loss, **common),
            _try(losses.equals_minus_log_p, loss, smoothing=smoothing, **common),
            _try(losses.ignored_positions_do_not_count, loss, **common),
            _try(losses.all_ignored_gives_zero, loss, **common),
            _try(losses.all_ignored_gives_no_gradient, grad, needs={"grad=": grad}, **common),
            _try(losses.order_of_positions_irrelevant, loss, **common),
            _try(losses.gradient_sums_to_zero, grad, needs={"grad=": grad}, **common),
            _try(losses.loss_gradient_equals_differences, loss, grad, needs={"grad=": grad}, **common),
        )
    )


def check_sampler(
    sample: Callable,
    *,
    among: Callable = sampling.softmax,
    sample_at: Callable | None = None,
    search: Search = USUAL,
) -> Report:
    """Hold sample(key: int, logits: (n,)) -> token against its laws; `among` is what it claims to draw from."""
    return Report(
        (
            _try(sampling.same_key_same_token, sample, search=search),
            _try(sampling.support, sample, among=among, search=search),
            _try(sampling.frequencies, sample, among=among, search=search),
            _try(sampling.zero_temperature_is_argmax, sample_at, needs={"sample_at=": sample_at}, search=search),
        )
    )


def check_tokenizer(
    encode: Callable,
    decode: Callable,
    *,
    n: int | None = None,
    specials: dict[str, int] | None = None,
    encode_bytes: Callable | None = None,
    decode_bytes: Callable | None = None,
    search: Search = tokenization.THOROUGH,
) -> Report:
    """Hold encode(text) -> ids and decode(ids) -> text against their laws; n is the vocabulary's size.

    `encode_bytes` and `decode_bytes` are the same of bytes.
    """
    special = {"specials=": specials or None}
    of_bytes = {"encode_bytes=": encode_bytes, "decode_bytes=": decode_bytes}
    return Report(
        (
            _try(tokenization.text_round_trip, encode, decode, search=search),
            _try(tokenization.bytes_round_trip, encode_bytes, decode_bytes, needs=of_bytes, search=search),
            _try(tokenization.ids_in_vocabulary, encode, n, needs={"n=": n}, search=search),
            _try(tokenization.special_tokens_stay_text, encode, specials, needs=special, search=search),
            _try(tokenization.pieces_join, encode, decode_bytes, needs={"decode_bytes=": decode_bytes}, search=search),
        )
    )


def _try(law, *functions, needs=None, **keywords):
    name = law.__name__.replace("_", " ")
    if missing := [argument for argument, given in (needs or {}).items() if given is None or given is False]:
        return Finding(name, missing=" and ".join(f"`{argument}`" for argument in missing))
    try:
        law(*functions, **keywords)
    except LawBroken as error:
        return Finding(name, error)
    return Finding(name)
