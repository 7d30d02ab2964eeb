"""The laws, held against planted bugs, against correct code of four frameworks, and against their own promises."""

import subprocess
import sys

import numpy as np
import pytest

from minilm import laws
from tests.gallery import all_plants
from tests.gallery.textbook import W_K, W_Q, W_V, D, attend, attend_backward, causal, self_attention, softmax

FEW = laws.Search(lengths=(1, 2, 5), examples=15)  # for code that compiles, or draws a graph at each call
PLANTS = all_plants()
every_plant = pytest.mark.parametrize("bug", PLANTS, ids=[bug.name for bug in PLANTS])


@every_plant
def test_the_law_catches_the_planted_bug_in_one_sentence(bug):
    wrong, _ = bug.grow()
    with pytest.raises(laws.LawBroken) as caught:
        bug.check(wrong)
    assert caught.value.law == bug.law.__name__.replace("_", " ")
    assert "raised" not in caught.value.sentence, "the bug is found by its results, not by an accident"
    assert "\n" not in caught.value.sentence
    assert str(caught.value).startswith(f"{caught.value.law}: {caught.value.sentence}")
    assert caught.value.__cause__ is None, "the reader sees a sentence and an input, no machinery"


@every_plant
def test_the_law_holds_for_the_correct_twin(bug):
    _, right = bug.grow()
    bug.check(right)


def test_every_law_catches_a_bug_and_every_bug_says_where_it_was_shipped():
    assert {law.__name__ for law in laws.LAWS} == {bug.law.__name__ for bug in PLANTS}
    assert all(bug.grow.__doc__ for bug in PLANTS)
    assert len({bug.name for bug in PLANTS}) == len(PLANTS) >= 20


def test_zero_biases_hide_a_swapped_bias():
    from tests.gallery import recurrent

    biases, recurrent.B = recurrent.B, np.zeros_like(recurrent.B)
    try:
        laws.same_cell(recurrent.lstm(biases=(0, 3, 2, 3)), recurrent.lstm(), d=D, states=recurrent.two_states)
    finally:
        recurrent.B = biases


def test_the_input_that_breaks_a_law_is_the_smallest():
    with pytest.raises(laws.LawBroken) as caught:
        laws.causality(lambda x: x[::-1].copy(), d=1)
    assert caught.value.inputs["x"].shape == (2, 1)
    assert np.abs(caught.value.inputs["x"] - caught.value.inputs["changed"]).max() == 0.25


def test_a_function_that_raises_breaks_the_law_with_its_error():
    with pytest.raises(laws.LawBroken, match=r"the function raised ValueError: odd lengths only"):
        laws.prefix_equals_whole(_odd_only, d=2)


def test_a_function_of_chance_breaks_determinism_and_no_law_crashes():
    rng = np.random.default_rng(0)
    report = laws.check(lambda x: x + (rng.random() < 0.5), d=2, causal=True, equivariant=True)
    assert {error.law for error in report.broken} >= {"determinism", "causality"}


def test_a_wrong_shape_breaks_the_law_in_a_sentence():
    with pytest.raises(laws.LawBroken, match=r"has shape \(1, 2\) where \(1, 3\) was expected"):
        laws.agreement(lambda x: x[:, :2], lambda x: x, d=3)


def _odd_only(x):
    if len(x) % 2 == 0:
        raise ValueError("odd lengths only\nand a second line")
    return x


def numpy_pieces():
    """A correct attention layer with everything that `check` can ask for."""

    def mixer(x):
        return self_attention(x, seen(len(x)))

    def seen(t):
        return causal(t) & ~np.tri(t, k=-3, dtype=bool)

    def step(state, x):
        rows = np.concatenate([state, x])
        return rows, self_attention(rows, seen(len(rows)))[len(state) :]

    def weights(x):
        return softmax(np.where(seen(len(x)), x @ W_Q @ (x @ W_K).T / np.sqrt(D), -np.inf))

    def grad(x, d_y):
        d_q, d_k, d_v = attend_backward(x @ W_Q, x @ W_K, x @ W_V, d_y, weights(x))
        return d_q @ W_Q.T + d_k @ W_K.T + d_v @ W_V.T

    return mixer, {
        "causal": True,
        "window": 3,
        "weights": weights,
        "grad": grad,
        "step": step,
        "init_state": lambda: np.zeros((0, D)),
        "padded": lambda x, real: self_attention(x, seen(len(x)) & real),
        "packed": lambda x, document: self_attention(x, seen(len(x)) & (document[:, None] == document)),
        "batched": lambda x: np.stack([mixer(one) for one in x]),
        "other": mixer,
    }


def test_a_check_of_a_correct_mixer_holds_every_law_it_was_given_in_less_than_a_thousand_calls():
    mixer, pieces = numpy_pieces()
    calls = []
    report = laws.check(lambda x: calls.append(len(x)) or mixer(x), d=D, **pieces).raise_if_broken()
    assert len(calls) < 1000
    assert report.not_checked == ("permutation equivariance",)


@pytest.mark.parametrize(
    "missing", ["causal", "window", "weights", "grad", "step", "init_state", "padded", "packed", "batched", "other"]
)
def test_what_is_not_given_is_reported_as_not_checked_and_never_as_passed(missing):
    mixer, pieces = numpy_pieces()
    quick = laws.Search(lengths=(2,), examples=1)
    full = laws.check(mixer, d=D, search=quick, **pieces)
    del pieces[missing]
    less = laws.check(mixer, d=D, search=quick, **pieces)
    lost = set(less.not_checked) - set(full.not_checked)
    assert lost
    assert all(f"`{missing}=" in str(finding) for finding in less.findings if finding.law in lost)
    assert str(less).count("not checked: give") == len(less.not_checked)


def test_a_report_names_the_broken_law_and_raises_it():
    report = laws.check(lambda x: self_attention(x, True), d=D, causal=True)
    assert [error.law for error in report.broken] == ["causality", "prefix equals whole"]
    assert "BROKEN: an output before position 1 changes by" in str(report)
    with pytest.raises(laws.LawBroken, match="causality"):
        report.raise_if_broken()


@pytest.mark.slow
def test_the_other_checks_hold_for_correct_code_and_leave_nothing_out():
    from tests.gallery import losses, norms, tokenizers
    from tests.gallery.textbook import cross_entropy, draw

    def grad(q, k, v, mask, d_o):
        return attend_backward(q, k, v, d_o, softmax(np.where(mask, q @ k.T / np.sqrt(q.shape[-1]), -np.inf)))

    reports = [
        laws.check_attention(attend, grad=grad, other=attend),
        laws.check_norm(norms.layer_norm, d=7, centred=True),
        laws.check_loss(cross_entropy, grad=losses.gradient(lambda weights: weights)),
        laws.check_sampler(draw, sample_at=lambda key, logits, temperature: draw(key, logits / temperature)),
        laws.check_tokenizer(
            tokenizers.encode,
            tokenizers.decode,
            n=256,
            specials={tokenizers.END: 256},
            encode_bytes=list,
            decode_bytes=bytes,
        ),
    ]
    for report in reports:
        assert not report.raise_if_broken().not_checked


def test_the_laws_need_no_jax():
    code = "import sys, minilm.laws; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_results_are_judged_by_the_dtype_that_comes_back(dtype):
    def rounded(x):
        return x.astype(dtype) / 3

    laws.agreement(rounded, lambda x: (x / 3).astype(dtype), d=3)
    with pytest.raises(laws.LawBroken):
        laws.agreement(rounded, lambda x: (x / 3 * 1.5).astype(dtype), d=3)
    with pytest.raises(laws.LawBroken):
        laws.agreement(lambda x: x / 3, lambda x: x / 3 * (1 + 1e-9), d=3)


def test_pytorch_modules_obey_by_a_lambda():
    torch = pytest.importorskip("torch")

    torch.manual_seed(0)
    module = torch.nn.MultiheadAttention(8, 2, batch_first=True).double().eval()

    def run(x, need_weights=False):
        x = torch.tensor(x)
        hidden = torch.ones(len(x), len(x), dtype=torch.bool).triu(1)
        y, weights = module(x[None], x[None], x[None], attn_mask=hidden, need_weights=need_weights)
        return weights if need_weights else y[0]

    def grad(x, d_y):
        x = torch.tensor(x, requires_grad=True)
        hidden = torch.ones(len(x), len(x), dtype=torch.bool).triu(1)
        y, _ = module(x[None], x[None], x[None], attn_mask=hidden, need_weights=False)
        return torch.autograd.grad(y[0], x, torch.tensor(d_y))[0]

    laws.check(run, d=8, causal=True, weights=lambda x: run(x, True), grad=grad, search=FEW).raise_if_broken()


def test_pytorch_sdpa_obeys_the_laws_of_attention_with_a_boolean_mask():
    torch = pytest.importorskip("torch")

    def sdpa(q, k, v, mask):
        return torch.nn.functional.scaled_dot_product_attention(
            *map(torch.tensor, (q, k, v)), attn_mask=torch.tensor(mask)
        )

    report = laws.check_attention(sdpa, other=attend, search=FEW)
    assert not report.broken, str(report)


def test_flax_modules_obey_by_a_lambda():
    import flax.linen as nn
    import jax
    import jax.numpy as jnp

    module = nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=8, out_features=8, param_dtype=jnp.float32)
    variables = module.init(jax.random.key(0), jnp.zeros((3, 8)))

    @jax.jit
    def mixer(x):
        return module.apply(variables, x, mask=nn.make_causal_mask(x[:, 0]))

    search = laws.Search(lengths=(1, 2, 5), examples=15, dtype="float32")
    laws.check(mixer, d=8, causal=True, batched=mixer_of_batches(mixer), search=search).raise_if_broken()


def test_jax_functions_obey_as_they_are():
    import jax
    import jax.numpy as jnp

    @jax.jit
    def mixer(x):
        seen = jnp.tri(len(x), dtype=bool)
        return jax.nn.softmax(x @ x.T, where=seen) @ x

    @jax.jit
    def grad(x, d_y):
        return jax.vjp(mixer, x)[1](d_y)[0]

    laws.check(mixer, d=3, causal=True, grad=grad, search=FEW).raise_if_broken()


def mixer_of_batches(mixer):
    import jax

    return jax.jit(jax.vmap(mixer))


@pytest.mark.slow
def test_minilms_attention_obeys_with_its_rules_and_its_cache():
    import jax
    import jax.numpy as jnp

    from minilm.layers.attention.core import Dense, dot_product_attention
    from minilm.layers.attention.masks import Causal, SameDocument, SlidingWindow
    from minilm.layers.attention.multi_head import softmax_mixer
    from minilm.shapes import Tokens

    def attend(q, k, v, mask):
        return dot_product_attention(*(jnp.asarray(a)[None] for a in (q[None], k, v)), jnp.asarray(mask))[0, 0]

    few = laws.Search(lengths=(2, 5), examples=5)
    laws.check_attention(attend, search=few).raise_if_broken()

    mixer = softmax_mixer(Dense(Causal() & SlidingWindow(3) & SameDocument()), g=2, r=1, k=2, v=3)
    params = jax.tree.map(lambda w: w.astype(jnp.float64), mixer.init(jax.random.key(0), 4))

    def packed(x, document):
        start = np.searchsorted(document, document)
        position = jnp.asarray(np.arange(len(x)) - start, jnp.int32)
        return mixer.apply(params, jnp.asarray(x), Tokens(position, jnp.asarray(document, jnp.int32)))

    def mix(x):
        return packed(x, np.zeros(len(x)))

    def step(state, x):
        position, cache = state
        cache, y = mixer.step(params, cache, jnp.asarray(x), Tokens.arange(len(x), position))
        return (position + len(x), cache), y

    laws.check(
        mix,
        d=4,
        causal=True,
        window=3,
        step=step,
        init_state=lambda: (0, mixer.init_state(params, 8, jnp.float64)),
        packed=packed,
        grad=lambda x, d_y: jax.vjp(mix, jnp.asarray(x))[1](jnp.asarray(d_y))[0],
        search=few,
    ).raise_if_broken()
