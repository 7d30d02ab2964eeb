r"""Hold your own attention against the law.

A correctness contract for language models, as functions. Each takes *your* code, be it NumPy, PyTorch, Flax or a kernel
behind a lambda; looks for an input that breaks a law; shrinks it to the smallest; and says in one sentence what
broke, and by how much. Nothing here imports JAX, and nothing asks how your code works.

Here is a causal attention in NumPy whose mask is minus ten thousand, as masks have been in many a published model:

>>> import numpy as np
>>> from minilm import laws
>>> def attention(x):
...     scores = x @ x.T + np.where(np.tri(len(x)), 0, -1e4)
...     weights = np.exp(scores - scores.max(-1, keepdims=True))
...     return weights / weights.sum(-1, keepdims=True) @ x
>>> laws.causality(attention, d=2)
Traceback (most recent call last):
...
minilm.laws.search.LawBroken: causality: an output before position 1 changes by ... when only inputs from 1 on change
  x = [[..., ...],
       [..., ...]]
  changed = [[..., ...],
             [..., ...]]
  first = 1

With -np.inf it holds, and `check` runs every law for which you give what it needs:

>>> print(laws.check(lambda x: np.cumsum(x, 0), d=2, causal=True))
shape kept                    holds
determinism                   holds
positions mixed               holds
causality                     holds
prefix equals whole           holds
causality of gradient         not checked: give `grad=`
window honoured               not checked: give `window=`
permutation equivariance      not checked: give `equivariant=True`
weights sum to one            not checked: give `weights=`
gradient equals differences   not checked: give `grad=`
cached equals full            not checked: give `step=` and `init_state=`
padding ignored               not checked: give `padded=`
documents kept apart          not checked: give `packed=`
batch equals one by one       not checked: give `batched=`
order of examples irrelevant  not checked: give `batched=`
agreement                     not checked: give `other=`
<BLANKLINE>
5 hold, 0 broken, 11 not checked

What you do not give is not checked, and the report says so; it is never counted as passed. In a test suite, one line:
`laws.check(mixer, d=64, causal=True, step=step, init_state=init).raise_if_broken()`.

**Mixers**, any f(x: (t, d)) -> (t, d); one call: `check`

| law                            | statement                                                                        |
|--------------------------------|----------------------------------------------------------------------------------|
| `shape_kept`                   | f(x) is (t, d), for one token too                                                |
| `determinism`                  | f(x) = f(x)                                                                      |
| `positions_mixed`              | f(x)[i] depends on x[j] for some i ≠ j; what means to mix nothing has `window=1` |
| `causality`                    | x[≤i] = x'[≤i] ⟹ f(x)[i] = f(x')[i], bitwise, the future 10⁴ times as loud       |
| `causality_of_gradient`        | ∂f(x)[i] / ∂x[j] = 0 for j > i, exactly                                          |
| `prefix_equals_whole`          | f(x[<n]) = f(x)[<n]                                                              |
| `window_honoured`              | f(x)[i] depends on x[j] ⟺ i − w < j ≤ i: w tokens, itself among them             |
| `permutation_equivariance`     | f(x[π]) = f(x)[π]                                                                |
| `weights_sum_to_one`           | a[i, j] ≥ 0 and Σⱼ a[i, j] = 1: over the keys, not the queries, not the heads    |
| `gradient_equals_differences`  | ⟨d_x, v⟩ = ⟨d_y, f(x + hv) − f(x − hv)⟩ / 2h                                     |
| `cached_equals_full`           | step by step, or in pieces cut anywhere, = f(x); after a window has slid, too    |
| `padding_ignored`              | f(x, real)[real] = f(x[real]), padding left or right, whatever it holds          |
| `documents_kept_apart`         | f(x, document)[document = j] = f(x[document = j]), of one to four documents      |
| `batch_equals_one_by_one`      | F([x₁, …, x_b])[m] = F([x_m]) = f(x_m)                                           |
| `order_of_examples_irrelevant` | F(x[π]) = F(x)[π]                                                                |
| `agreement`                    | f = g: blockwise and dense, kernel and reference, converted and original         |

**Attention**, any attend(q: (t, k), k: (s, k), v: (s, v), mask: (t, s)) -> (t, v); one call: `check_attention`

| law                                     | statement                                                              |
|-----------------------------------------|------------------------------------------------------------------------|
| `masking_equals_removing`               | o(q[i], K, V, m[i]) = o(q[i], K[m[i]], V[m[i]]), whatever their scores |
| `everything_seen_counts`                | o[i] depends on q[i], and on K[j] and V[j] where m[i, j]               |
| `empty_rows_give_zero`                  | m[i] = 0 ⟹ o[i] = 0: not NaN, not the mean of V                        |
| `empty_rows_have_finite_gradients`      | m[i] = 0 ⟹ every gradient is finite, that of q[i] 0, that of V not     |
| `attention_gradient_equals_differences` | the gradient of q, k and v = central differences of o, for every mask  |
| `same_attention`                        | o = o' for every mask                                                  |
| `grouped_equals_repeated`               | query head h reads key/value head ⌊h / r⌋, and no other                |
| `rotary_depends_on_distance`            | ⟨R_m q, R_n k⟩ = ⟨R_{m+c} q, R_{n+c} k⟩, ‖R_m q‖ = ‖q‖, R₀ = 1 ≠ R₁    |
| `bias_depends_on_distance`              | b(m, n) = b(m + c, n + c), and of positions, not of indices            |
| `alibi_slopes_as_published`             | m(n)[i] = 2^(−8i/n) for n = 2ʲ, every second of m(2p) after m(p) else  |

**Recurrence**, any cell(state, x: (i,)) -> (state, y)

| law                           | statement                                                              |
|-------------------------------|------------------------------------------------------------------------|
| `recurrence_equals_loop`      | unroll(s₀, x) = the loop of cell over x: outputs and final state       |
| `final_state_ignores_padding` | encode(x, n) = encode(x[<n], n), also backwards, and depends on x[n−1] |
| `same_cell`                   | cell = cell', with no bias zero                                        |

**Norms**, any norm(x: (..., d)) of scale 1 and bias 0; one call: `check_norm`

| law                      | statement                                            |
|--------------------------|------------------------------------------------------|
| `scale_invariance`       | norm(ax) = norm(x) for a > 0 and ‖x‖ ≫ ε             |
| `unit_output`            | mean over j of norm(x)[j]² = 1                       |
| `direction_kept`         | norm(x) = c·x or c·(x − mean), c > 0, row by row     |
| `finite_on_constants`    | ‖norm(c, c, …, c)‖ < ∞                               |
| `shift_invariance`       | norm(x + c) = norm(x), for one that removes the mean |
| `accurate_far_from_zero` | the same for c/σ ≈ 4/√u, to C·u·c/σ                  |

**Losses**, any loss(logits: (t, n), targets: (t,), weights: (t,)) -> mean in nats; one call: `check_loss`

| law                                | statement                                                                   |
|------------------------------------|-----------------------------------------------------------------------------|
| `non_negative`                     | ℓ ≥ 0                                                                       |
| `equals_minus_log_p`               | ℓ = Σ w (−log p[y]) / Σ w, with label smoothing too, for logits of any size |
| `ignored_positions_do_not_count`   | ℓ(z, y, w) = ℓ of the positions of weight 1                                 |
| `all_ignored_gives_zero`           | ℓ(z, y, 0) = 0, not 0/0                                                     |
| `all_ignored_gives_no_gradient`    | ∂ℓ/∂z = 0 for w = 0, not NaN                                                |
| `order_of_positions_irrelevant`    | ℓ(z[π], y[π], w[π]) = ℓ(z, y, w)                                            |
| `gradient_sums_to_zero`            | Σⱼ ∂ℓ/∂z[i, j] = 0, and 0 where w[i] = 0                                    |
| `loss_gradient_equals_differences` | ⟨∂ℓ/∂z, v⟩ = (ℓ(z + hv) − ℓ(z − hv)) / 2h, of whatever loss it is           |

**Samplers**, any sample(key: int, logits: (n,)) -> token; one call: `check_sampler`

| law                          | statement                                                                           |
|------------------------------|-------------------------------------------------------------------------------------|
| `same_key_same_token`        | sample(key, z) = sample(key, z)                                                     |
| `support`                    | p[sample(key, z)] > 0, for p = softmax, `top_k(k)`, `top_p(p)`, `min_p(p)` or yours |
| `frequencies`                | tokens come as often as p says (chi-square, one false alarm in a million), z ± 1000 |
| `zero_temperature_is_argmax` | τ → 0 ⟹ sample = arg max z                                                          |

**Tokenizers**, any encode(text) -> ids, decode(ids) -> text; one call: `check_tokenizer`

| law                        | statement                                                                          |
|----------------------------|------------------------------------------------------------------------------------|
| `text_round_trip`          | decode(encode(s)) = s for any Unicode: every character, " ,", "&amp;" and "<0x41>" |
| `bytes_round_trip`         | decode(encode(b)) = b for any bytes                                                |
| `pieces_join`              | decode(a) + decode(b) = decode(a + b)                                              |
| `special_tokens_stay_text` | encode(s) ∩ specials = ∅                                                           |
| `ids_in_vocabulary`        | 0 ≤ encode(s)[i] < n                                                               |

Anything becomes such a function by a lambda, dropout off:

- PyTorch: `lambda x: module(torch.tensor(x)[None])[0]`, of a module made with `batch_first=True`, if it has that
  argument, in `.double()` or with `search=Search(dtype="float32")`;
- Flax: `lambda x: module.apply(variables, x)`; JAX: `jax.jit(f)` as it is;
- a minilm `Mixer`: `lambda x: mixer.apply(params, x, Tokens.arange(len(x)))`.

Results are judged by the dtype that comes back, against the one table of tolerances in `minilm.laws.search`. That each
law catches what it is for is itself tested: `tests/gallery` plants bugs that the field shipped, each beside its correct
twin, with the name of the law that tells them apart.
"""

from minilm.laws.attention import (
    attention_gradient_equals_differences,
    empty_rows_give_zero,
    empty_rows_have_finite_gradients,
    everything_seen_counts,
    grouped_equals_repeated,
    masking_equals_removing,
    same_attention,
)
from minilm.laws.dependence import (
    causality,
    causality_of_gradient,
    determinism,
    documents_kept_apart,
    padding_ignored,
    permutation_equivariance,
    positions_mixed,
    prefix_equals_whole,
    shape_kept,
    window_honoured,
)
from minilm.laws.equality import (
    agreement,
    batch_equals_one_by_one,
    by_token,
    cached_equals_full,
    gradient_equals_differences,
    order_of_examples_irrelevant,
    weights_sum_to_one,
)
from minilm.laws.losses import (
    all_ignored_gives_no_gradient,
    all_ignored_gives_zero,
    equals_minus_log_p,
    gradient_sums_to_zero,
    ignored_positions_do_not_count,
    loss_gradient_equals_differences,
    non_negative,
    order_of_positions_irrelevant,
)
from minilm.laws.normalization import (
    accurate_far_from_zero,
    direction_kept,
    finite_on_constants,
    scale_invariance,
    shift_invariance,
    unit_output,
)
from minilm.laws.position import alibi_slopes_as_published, bias_depends_on_distance, rotary_depends_on_distance
from minilm.laws.recurrent import final_state_ignores_padding, recurrence_equals_loop, same_cell
from minilm.laws.report import (
    Finding,
    Report,
    check,
    check_attention,
    check_loss,
    check_norm,
    check_sampler,
    check_tokenizer,
)
from minilm.laws.sampling import (
    frequencies,
    min_p,
    same_key_same_token,
    softmax,
    support,
    top_k,
    top_p,
    zero_temperature_is_argmax,
)
from minilm.laws.search import LawBroken, Search
from minilm.laws.tokenization import (
    bytes_round_trip,
    ids_in_vocabulary,
    pieces_join,
    special_tokens_stay_text,
    text_round_trip,
)

# fmt: off
LAWS = (
    shape_kept, determinism, positions_mixed, causality, causality_of_gradient, prefix_equals_whole, window_honoured,
    permutation_equivariance, weights_sum_to_one, gradient_equals_differences, cached_equals_full, padding_ignored,
    documents_kept_apart, batch_equals_one_by_one, order_of_examples_irrelevant, agreement,
    masking_equals_removing, everything_seen_counts, empty_rows_give_zero, empty_rows_have_finite_gradients,
    attention_gradient_equals_differences, same_attention,
    grouped_equals_repeated, rotary_depends_on_distance, bias_depends_on_distance, alibi_slopes_as_published,
    recurrence_equals_loop, final_state_ignores_padding, same_cell,
    scale_invariance, unit_output, direction_kept, finite_on_constants, shift_invariance, accurate_far_from_zero,
    non_negative, equals_minus_log_p, ignored_positions_do_not_count, all_ignored_gives_zero,
    all_ignored_gives_no_gradient, order_of_positions_irrelevant, gradient_sums_to_zero,
    loss_gradient_equals_differences,
    same_key_same_token, support, frequencies, zero_temperature_is_argmax,
    text_round_trip, bytes_round_trip, pieces_join, special_tokens_stay_text, ids_in_vocabulary,
)
__all__ = [
    "LAWS", "Finding", "LawBroken", "Report", "Search", "accurate_far_from_zero", "agreement",
    "alibi_slopes_as_published", "all_ignored_gives_no_gradient", "all_ignored_gives_zero",
    "attention_gradient_equals_differences", "batch_equals_one_by_one", "bias_depends_on_distance", "by_token",
    "bytes_round_trip", "cached_equals_full", "causality", "causality_of_gradient", "check", "check_attention",
    "check_loss", "check_norm", "check_sampler", "check_tokenizer", "determinism", "direction_kept",
    "documents_kept_apart", "empty_rows_give_zero", "empty_rows_have_finite_gradients", "equals_minus_log_p",
    "everything_seen_counts", "final_state_ignores_padding", "finite_on_constants", "frequencies",
    "gradient_equals_differences", "gradient_sums_to_zero", "grouped_equals_repeated", "ids_in_vocabulary",
    "ignored_positions_do_not_count", "loss_gradient_equals_differences", "masking_equals_removing", "min_p",
    "non_negative", "order_of_examples_irrelevant", "order_of_positions_irrelevant", "padding_ignored",
    "permutation_equivariance", "pieces_join", "positions_mixed", "prefix_equals_whole", "recurrence_equals_loop",
    "rotary_depends_on_distance", "same_attention", "same_cell", "same_key_same_token", "scale_invariance",
    "shape_kept", "shift_invariance", "softmax", "special_tokens_stay_text", "support", "text_round_trip", "top_k",
    "top_p", "unit_output", "weights_sum_to_one", "window_honoured", "zero_temperature_is_argmax",
]
# fmt: on
