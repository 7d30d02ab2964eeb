"""minilm's attention in Flax's modules and in the place of JAX's function: the same values, and the same gradients."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from minilm.bridges import dot_product_attention, flax_attention
from minilm.layers.attention import core
from minilm.layers.attention.biases import Alibi
from minilm.layers.attention.blockwise import Blockwise
from minilm.layers.attention.core import Dense, DenseWithWeights
from minilm.layers.attention.differential import differential_heads, init_differential
from minilm.layers.attention.masks import Causal, Everything, SlidingWindow
from minilm.layers.attention.multi_head import MultiHeadParams, multi_head
from minilm.layers.attention.qk_norm import cosine_attention
from minilm.layers.attention.rotary import Rotary
from minilm.layers.attention.sigmoid import sigmoid_attention
from minilm.layers.attention.sinks import sink_attention
from minilm.layers.attention.soft_cap import soft_capped_attention
from minilm.layers.attention.talking_heads import init_talking_heads, talking_heads_attention
from minilm.layers.attention.top_k import top_k_attention
from minilm.shapes import Tokens
from tests.tolerances import FORMULA, LAYER, assert_close

nn = pytest.importorskip("flax.linen")
nnx = pytest.importorskip("flax.nnx")

B, T, S, HEADS, WIDTH, D = 2, 5, 7, 3, 4, 6


def each(cases, slow):
    """Cases by name, those that others nearly cover being slow."""
    return [pytest.param(case, id=name, marks=[pytest.mark.slow] * (name in slow)) for name, case in cases.items()]


def drawn(*shapes, dtype=jnp.float64, seed=0):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes]


@partial(jax.jit, static_argnums=0)
def value_and_gradients(function, *arrays):
    out, pullback = jax.vjp(function, *arrays)
    return out, pullback(jnp.cos(jnp.arange(out.size)).reshape(out.shape).astype(out.dtype))


def assert_same_function(actual, expected, arrays, C=FORMULA, dtype=jnp.float64):
    assert_close(value_and_gradients(actual, *arrays), value_and_gradients(expected, *arrays), C, dtype)


def a_mask(*shape):
    """No query is without a key, of which the libraries think differently."""
    return jnp.asarray(np.random.default_rng(3).random(shape) < 0.6).at[..., 0].set(True)


# Flax


def linen(attention_fn=None, **options):
    chosen = {} if attention_fn is None else {"attention_fn": attention_fn}
    return nn.MultiHeadDotProductAttention(
        num_heads=HEADS, qkv_features=HEADS * WIDTH, dtype=jnp.float64, param_dtype=jnp.float64, **chosen, **options
    )


def linen_variables(x):
    rng, shapes = np.random.default_rng(1), jax.eval_shape(linen().init, jax.random.key(0), x)
    return jax.tree.map(lambda w: jnp.asarray(rng.standard_normal(w.shape) / 2), shapes)


def applied(module, *arguments, **options):
    """What a module of linen gives, by one program: Flax itself would ask for one an operation."""
    return jax.jit(lambda *arguments: module.apply(*arguments, **options))(*arguments)


MASKS = {
    "none": None,
    "causal, of floats": nn.make_causal_mask(jnp.ones((B, T))),
    "each head": a_mask(B, HEADS, T, T),
    "shared": a_mask(1, 1, T, T),
}


@pytest.mark.parametrize("mask", each(MASKS, {"none", "shared"}))
def test_in_linen_dense_attention_is_flaxs_own(mask):
    (x,) = drawn((B, T, D))
    variables = linen_variables(x)
    ours, theirs = linen(flax_attention(Dense(Everything()))), linen()
    assert_same_function(
        lambda v, x: ours.apply(v, x, mask=mask), lambda v, x: theirs.apply(v, x, mask=mask), (variables, x)
    )


def test_in_linen_a_rule_is_flaxs_mask_and_both_may_be_given():
    (x,) = drawn((B, T, D))
    variables, causal, padding = linen_variables(x), nn.make_causal_mask(x[..., 0]), a_mask(B, 1, 1, T)
    ours = linen(flax_attention(Dense(Causal())))
    assert_close(applied(ours, variables, x), applied(linen(), variables, x, mask=causal), FORMULA)
    both = nn.combine_masks(causal, padding)
    assert_close(applied(ours, variables, x, mask=padding), applied(linen(), variables, x, mask=both), FORMULA)


WEIGHED = [
    Partial(sink_attention, jnp.full((HEADS, 1), 0.5)),
    Partial(sigmoid_attention, -1.0),
    Partial(soft_capped_attention, 2.0),
    Partial(partial(top_k_attention, n=2)),
    Partial(cosine_attention, jnp.full((HEADS, 1), 3.0)),
    Partial(talking_heads_attention, init_talking_heads(HEADS, 1)),
    Partial(differential_heads, init_differential(jax.random.key(0), WIDTH // 2, WIDTH), 0.3),
]
ATTENDS = [Rotary(Dense(Causal())), Dense(Causal(), Alibi.of(HEADS)), Blockwise(Causal())]


@pytest.mark.parametrize("attend", [*ATTENDS, *(Dense(Causal(), attention=weighed) for weighed in WEIGHED)])
def test_in_linen_any_attention_is_what_it_is_in_minilm(attend):
    (x,) = drawn((B, T, D))
    variables = linen_variables(x)
    w, b = ({name: layer[kind] for name, layer in variables["params"].items()} for kind in ("kernel", "bias"))
    params = MultiHeadParams(
        w_q=w["query"][:, :, None], w_k=w["key"], w_v=w["value"], w_o=w["out"][:, None],
        b_q=b["query"][:, None], b_k=b["key"], b_v=b["value"], b_o=b["out"],
    )  # fmt: skip
    expected = multi_head(params, x, Tokens.arange(T), attend)
    assert_close(applied(linen(flax_attention(attend)), variables, x), expected, FORMULA)


def test_in_linen_a_mask_reaches_the_attention_inside_of_a_rotary_one():
    (x,) = drawn((B, T, D))
    variables, causal = linen_variables(x), nn.make_causal_mask(x[..., 0])
    masked = applied(linen(flax_attention(Rotary(Dense(Everything())))), variables, x, mask=causal)
    assert_close(masked, applied(linen(flax_attention(Rotary(Dense(Causal())))), variables, x), FORMULA)


def test_in_linen_decoding_from_flaxs_cache_is_flaxs_own():
    (x,) = drawn((B, T, D))
    params = linen_variables(x)["params"]
    modules = linen(flax_attention(Dense(Everything())), decode=True), linen(decode=True)
    caches = [jax.jit(module.init)(jax.random.key(0), x)["cache"] for module in modules]
    for i in range(T):
        ys = []
        for which, module in enumerate(modules):
            variables = {"params": params, "cache": caches[which]}
            y, changed = applied(module, variables, x[:, i : i + 1], mutable=["cache"])
            caches[which] = changed["cache"]
            ys.append(y)
        assert_close(*ys, FORMULA)


def test_in_linen_cross_attention_is_flaxs_own():
    x, memory = drawn((B, T, D), (B, S, D))
    variables, mask = linen_variables(x), a_mask(B, 1, T, S)
    ours = applied(linen(flax_attention(Dense(Everything()))), variables, x, memory, mask=mask)
    assert_close(ours, applied(linen(), variables, x, memory, mask=mask), FORMULA)


@pytest.mark.parametrize("mask", each({"none": None, "each head": MASKS["each head"]}, {"none"}))
def test_in_nnx_dense_attention_is_flaxs_own(mask):
    """To float32's precision: nnx calls jax.nn's function, whose softmax is never more exact."""

    def module(**options):
        return nnx.MultiHeadAttention(
            num_heads=HEADS, in_features=D, qkv_features=HEADS * WIDTH, decode=False, rngs=nnx.Rngs(0), **options
        )

    (x,) = drawn((B, T, D), dtype=jnp.float32)
    functions = []
    for built in (module(attention_fn=flax_attention(Dense(Everything()))), module()):
        definition, state = nnx.split(built)
        functions.append(lambda s, x, definition=definition: nnx.merge(definition, s)(x, mask=mask))
    assert_same_function(*functions, (state, x), LAYER, jnp.float32)


@pytest.mark.parametrize("leading", each({"one": (), "batch": (2,), "batches": (2, 3)}, {"batch"}))
def test_flax_attention_takes_what_flaxs_function_takes(leading):
    q, k, v, bias = drawn((*leading, T, HEADS, 4), (*leading, S, HEADS, 4), (*leading, S, HEADS, 2), (HEADS, T, S))
    mask, ours = a_mask(T, S), flax_attention(Dense(Everything()))
    assert_same_function(
        lambda *arrays: ours(*arrays, mask), lambda *arrays: nn.dot_product_attention(*arrays, mask), (q, k, v, bias)
    )


def test_flax_attention_groups_heads_and_hides_the_future_as_nnx_does():
    q, k, v = drawn((B, T, 6, 4), (B, T, 2, 4), (B, T, 2, 4), dtype=jnp.float32)
    ours = flax_attention(Dense(Everything()))
    for options in ({"is_causal": True}, {"is_causal": True, "mask": a_mask(B, 1, T, T)}):
        expected = nnx.dot_product_attention(q, k, v, **options)
        assert_close(ours(q, k, v, **options), expected, LAYER, jnp.float32)


def test_flax_attention_computes_in_the_dtype_it_is_asked_for():
    q, k, v = drawn(*[(T, HEADS, 4)] * 3, dtype=jnp.float32)
    assert flax_attention(Dense(Everything()))(q, k, v, dtype=jnp.bfloat16).dtype == jnp.bfloat16


def test_where_lengths_differ_a_rule_is_asked_with_the_positions_that_were_given():
    q, k, v = drawn((B, 1, HEADS, 4), (B, S, HEADS, 4), (B, S, HEADS, 4))
    told = flax_attention(Dense(Causal() & SlidingWindow(2)), Tokens.arange(1, 4), Tokens.arange(S))
    assert_close(told(q, k, v), nn.dot_product_attention(q, k[:, 3:5], v[:, 3:5]), FORMULA)


def refused(attend=None, lengths=(T, T), **options):
    q, k, v = drawn(*((length, HEADS, 4) for length in (*lengths, lengths[1])))
    return flax_attention(Dense(Everything()) if attend is None else attend)(q, k, v, **options)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (partial(refused, dropout_rate=0.1), "No dropout of attention weights was expected, but a rate of 0.1"),
        (partial(refused, precision="highest"), "set jax.default_matmul_precision"),
        (partial(refused, module=object()), "see DenseWithWeights"),
        (partial(refused, qk_attn_weights_einsum=jnp.einsum), "leave `\\*_einsum_cls` as they are"),
        (partial(refused, attn_weights_value_einsum=jnp.einsum), "leave `\\*_einsum_cls` as they are"),
        (partial(refused, Blockwise(Causal()), mask=a_mask(T, T)), "Blockwise asks rules of positions"),
        (partial(refused, Rotary(Blockwise(Causal())), bias=jnp.ones((T, T))), "Blockwise asks rules of positions"),
        (partial(refused, Dense(Causal()), lengths=(1, S)), "1 queries and 7 keys, and this attention asks"),
        (partial(refused, Dense(Everything(), Alibi.of(HEADS)), lengths=(1, S)), "this attention asks"),
        (partial(refused, Rotary(Dense(Everything())), lengths=(1, S)), "give query_tokens and key_tokens"),
        (partial(refused, DenseWithWeights(Causal())), "use Dense"),
    ],
)
def test_what_flax_may_ask_and_is_not_had_is_refused_in_a_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def test_dropout_that_does_not_act_is_no_dropout():
    assert jnp.array_equal(refused(dropout_rate=0.1, deterministic=True), refused())


# jax.nn

OPTIONS = {
    "plain": {},
    "bias": {"bias": "bias"},
    "mask": {"mask": a_mask(B, 6, T, S)},
    "mask of all heads": {"mask": a_mask(1, 1, T, S), "bias": "bias"},
    "scale": {"scale": 0.3},
    "causal": {"is_causal": True},
    "window": {"local_window_size": 2},
    "causal window": {"local_window_size": (3, 1), "is_causal": True},
    "two-sided window": {"local_window_size": (1, 3)},
    "lengths": {"query_seq_lengths": jnp.array([2, 5]), "key_value_seq_lengths": jnp.array([7, 3])},
    "key lengths": {"key_value_seq_lengths": jnp.array([1, 6]), "mask": a_mask(B, 1, T, S)},
    "xla": {"implementation": "xla", "is_causal": True},
}


@pytest.mark.parametrize("options", each(OPTIONS, {"plain", "mask", "causal", "window", "lengths", "xla"}))
def test_it_is_jax_nns_function_and_its_gradient_is(options):
    arrays = drawn((B, T, 6, 4), (B, S, 2, 4), (B, S, 2, 4), (1, 6, T, S), dtype=jnp.float32)
    options = {k: v.astype(jnp.int32) if "lengths" in k else v for k, v in options.items()}

    def calling(function):
        def call(q, k, v, bias):
            return function(q, k, v, **{**options, **({"bias": bias} if "bias" in options else {})})

        return call

    ours, theirs = calling(dot_product_attention), calling(jax.nn.dot_product_attention)
    assert_same_function(ours, theirs, arrays, LAYER, jnp.float32)


@pytest.mark.parametrize("groups", each({"1": 1, "2": 2, "6": 6}, {"1", "6"}))
def test_it_is_jax_nns_function_for_one_sequence_and_any_groups(groups):
    q, k, v, bias = drawn((T, 6, 4), (S, groups, 4), (S, groups, 4), (6, T, S), dtype=jnp.float32)
    for options in (
        {"bias": bias, "is_causal": True},
        {"mask": a_mask(6, T, S)},
        {"mask": a_mask(1, 1, T, S)},
        {"key_value_seq_lengths": jnp.array([4], jnp.int32)},
    ):
        expected = jax.nn.dot_product_attention(q, k, v, **options)
        actual = dot_product_attention(q, k, v, **options)
        assert actual.shape == expected.shape
        assert_close(actual, expected, LAYER, jnp.float32)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_it_keeps_short_dtypes_as_jax_nns_function_does(dtype):
    q, k, v = drawn((B, T, 6, 4), (B, S, 2, 4), (B, S, 2, 4), dtype=dtype)
    actual, expected = dot_product_attention(q, k, v), jax.nn.dot_product_attention(q, k, v)
    assert actual.dtype == expected.dtype == dtype
    assert_close(actual, expected, LAYER, dtype)


def test_unlike_there_float64_is_float64():
    torch = pytest.importorskip("torch")
    q, k, v = drawn((B, T, 3, 4), (B, S, 3, 4), (B, S, 3, 4))
    heads_first = [torch.tensor(np.swapaxes(np.asarray(x), 1, 2)) for x in (q, k, v)]
    expected = torch.nn.functional.scaled_dot_product_attention(*heads_first, scale=0.3).numpy().swapaxes(1, 2)
    assert_close(dot_product_attention(q, k, v, scale=0.3), expected, FORMULA)
    with pytest.raises(AssertionError):
        assert_close(jax.nn.dot_product_attention(q, k, v, scale=0.3), expected, FORMULA)


def test_unlike_there_a_query_without_keys_gets_zero_and_a_finite_gradient():
    q, k, v = drawn((B, T, 3, 4), (B, S, 3, 4), (B, S, 3, 4))
    mask = jnp.ones((B, 1, T, S), bool).at[1, 0, 2].set(False)
    out, gradients = value_and_gradients(lambda *arrays: dot_product_attention(*arrays, mask=mask), q, k, v)
    assert not out[1, 2].any()
    assert out[0].all()
    assert all(jnp.isfinite(gradient).all() for gradient in gradients)
    assert not gradients[0][1, 2].any()


def test_unlike_there_values_may_be_of_another_width():
    q, k, v = drawn((B, T, 6, 4), (B, S, 2, 4), (B, S, 2, 5))
    expected = jnp.concatenate(
        [dot_product_attention(q, k, v[..., part]) for part in (slice(0, 4), slice(4, 5))], axis=-1
    )
    assert_close(dot_product_attention(q, k, v), expected, FORMULA)


def test_any_variant_takes_its_place():
    def doubled(factor, q, k, v, mask, bias):
        return factor * core.dot_product_attention(q, k, v, mask, bias)

    q, k, v = drawn((B, T, 6, 4), (B, S, 2, 4), (B, S, 2, 4))
    expected = 2 * dot_product_attention(q, k, v, is_causal=True)
    variant = Partial(doubled, 2.0)
    assert_close(dot_product_attention(q, k, v, is_causal=True, attention=variant), expected, FORMULA)
    in_flax = flax_attention(Dense(Everything(), attention=variant))
    assert_close(in_flax(q, k, v, mask=jnp.tri(T, S, dtype=bool)), expected, FORMULA)


def called(q=(B, T, 6, 4), k=(B, S, 2, 4), v=(B, S, 2, 4), dtypes=("float32",) * 3, **options):
    return dot_product_attention(*map(jnp.ones, (q, k, v), dtypes), **options)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (partial(called, return_residual=True), "return_residual=False were expected"),
        (partial(called, implementation="cudnn"), "but they are 'cudnn' and False"),
        (partial(called, mask=jnp.ones((T, S))), "mask of booleans was expected, but it is of float"),
        (partial(called, q=(T, 6, 4)), "all with b or without, were expected"),
        (partial(called, v=(B, T, 2, 4)), "all with b or without, were expected"),
        (partial(called, q=(B, T, 5, 4)), "n a multiple of g"),
        (partial(called, q=(B, T, 6, 2)), "equal widths of query and key"),
        (partial(called, q=(3, T, 6, 4)), "equal batches"),
        (partial(called, dtypes=("float32", "float32", "bfloat16")), "One dtype was expected"),
    ],
)
def test_what_jax_nn_may_be_asked_and_is_not_had_is_refused_in_a_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def test_the_bridge_to_flax_imports_no_flax():
    code = "import sys, minilm.bridges; sys.exit('flax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent, check=False).returncode == 0
