"""Attention beside the modules in which others use it: Hugging Face's, with the same weights, in float64."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm.layers import rotary_scaling
from minilm.layers.attention import biases
from minilm.layers.attention.core import Dense
from minilm.layers.attention.differential import differential_mixer
from minilm.layers.attention.gated import gated_mixer
from minilm.layers.attention.latent import latent_mixer
from minilm.layers.attention.masks import Causal
from minilm.layers.attention.multi_head import learned_mixer, softmax_mixer
from minilm.layers.attention.qk_norm import NormalizedHeads, init_qk_norm
from minilm.layers.attention.rotary import Rotary
from minilm.layers.attention.sinks import sink_attention
from minilm.layers.attention.soft_cap import soft_capped_attention
from minilm.layers.linear_attention.decay import decay_matrix
from minilm.layers.linear_attention.delta import delta_chunked
from minilm.shapes import Tokens
from tests.in_double import in_double
from tests.strategies import seeds
from tests.tolerances import FORMULA, assert_close

D, G, R, K, T = 12, 2, 2, 4, 5
few = settings(max_examples=3)
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


@pytest.fixture(autouse=True)
def precise(monkeypatch):
    in_double(monkeypatch)


def linear(w, inputs=1):
    """A weight as PyTorch's `Linear` has it, outputs before inputs."""
    return np.reshape(w, (int(np.prod(np.shape(w)[:inputs])), -1)).T


def heads_of_linears(p):
    """The four projections of `MultiHeadParams`, by the names that nearly all of their modules give them."""
    inputs = {f"{name}_proj.weight": linear(getattr(p, f"w_{name}")) for name in "qkv"}
    return inputs | {"o_proj.weight": linear(p.w_o, 3)}


def config(family, **sizes):
    heads = {"hidden_size": D, "num_attention_heads": G * R, "num_key_value_heads": G, "head_dim": K}
    made = getattr(transformers, f"{family}Config")(**heads | sizes)
    made._attn_implementation = "sdpa"
    return made


def llama():
    from transformers.models.llama.modeling_llama import LlamaAttention

    mixer = softmax_mixer(Rotary(Dense(Causal())), g=G, r=R, k=K, v=K, bias=False)
    return mixer, LlamaAttention(config("Llama"), 0), heads_of_linears, K


def qwen3():
    from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention

    def weights(p):
        norms = {f"{name}_norm.weight": getattr(p.attend, f"{name}_norm").scale for name in "qk"}
        return heads_of_linears(p.multi_head) | norms

    def attend(norms):
        return NormalizedHeads(Rotary(Dense(Causal())), norms.q_norm, norms.k_norm)

    mixer = learned_mixer(lambda key: init_qk_norm(K), attend, g=G, r=R, k=K, v=K, bias=False)
    return mixer, Qwen3Attention(config("Qwen3", rms_norm_eps=1e-6), 0), weights, K


def qwen3_next():
    from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextAttention

    def weights(p):
        both = np.concatenate([p.multi_head.w_q, p.gate.w_gate], -1)
        return heads_of_linears(p.multi_head) | {"q_proj.weight": linear(both)}

    module = Qwen3NextAttention(config("Qwen3Next", attention_bias=False), 0)
    module.q_norm = module.k_norm = torch.nn.Identity()  # the gate by itself
    return gated_mixer(Rotary(Dense(Causal())), g=G, r=R, k=K, v=K, bias=False), module, weights, K


def diff_llama(depth=3):
    from transformers.models.diffllama.modeling_diffllama import DiffLlamaAttention

    def halves_first(w, axis):
        """Their heads are our first halves, one after the other, and then our second halves."""
        return np.stack(np.split(np.asarray(w), 2, -1), axis)

    def weights(p):
        inputs = {f"{name}_proj.weight": linear(halves_first(getattr(p.multi_head, f"w_{name}"), 1)) for name in "qkv"}
        lambdas = {f"lambda_{name}{i}": getattr(p.attend, f"{name}_{i}") for name in "qk" for i in (1, 2)}
        return inputs | {"o_proj.weight": linear(p.multi_head.w_o, 3)} | lambdas

    made = config("DiffLlama", num_attention_heads=2 * G, num_key_value_heads=2 * G, rms_norm_eps=1e-5)
    mixer = differential_mixer(g=G, r=1, k=K, v=2 * K, depth=depth)
    return mixer, DiffLlamaAttention(made, depth), weights, 0


def deepseek(latent=3, turning=2, v=5):
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3Attention

    def weights(p):
        return {
            "q_proj.weight": linear(np.concatenate([p.w_q, p.w_q_r], -1)),
            "kv_a_proj_with_mqa.weight": linear(np.concatenate([p.w_down, p.w_k_r], -1)),
            "kv_a_layernorm.weight": p.scale,
            "kv_b_proj.weight": linear(np.concatenate([p.w_k, p.w_v], -1)),
            "o_proj.weight": linear(p.w_o, 3),
        }

    widths = {"kv_lora_rank": latent, "qk_rope_head_dim": turning, "qk_nope_head_dim": K, "v_head_dim": v}
    made = config("DeepseekV3", num_key_value_heads=G * R, q_lora_rank=None, rope_interleave=False, **widths)
    mixer = latent_mixer(g=G * R, r=1, k=K, v=v, latent=latent, rotary=turning)
    return mixer, DeepseekV3Attention(made, 0), weights, turning


@pytest.mark.slow
@pytest.mark.parametrize("published", [llama, qwen3, qwen3_next, diff_llama, deepseek])
@few
@given(seed=seeds)
def test_a_mixer_and_its_gradients_are_those_of_the_published_module(published, seed):
    mixer, module, weights, turning = published()
    rng = np.random.default_rng(seed)
    x, d_y = rng.standard_normal((2, T, D))
    shapes = jax.eval_shape(lambda key: mixer.init(key, D), jax.random.key(0))
    params = jax.tree.map(lambda w: rng.standard_normal(w.shape) / 2, shapes)
    if published is diff_llama:  # whose norm has no scale
        params = params._replace(attend=params.attend._replace(scale=np.ones_like(params.attend.scale)))
    for name, value in weights(params).items():
        module.get_parameter(name).data = torch.tensor(np.array(value))

    angles = np.arange(T)[:, None] * rotary_scaling.rotary_frequencies(turning)
    angles = np.tile(angles, 2) if turning else np.zeros((T, K))  # of 0 nothing turns
    turns = tuple(torch.tensor(f(angles))[None] for f in (np.cos, np.sin))
    their_x = torch.tensor(x[None], requires_grad=True)
    their_y = module(their_x, position_embeddings=turns, attention_mask=None)[0][0]
    their_y.backward(torch.tensor(d_y))

    y, vjp = jax.vjp(lambda params, x: mixer.apply(params, x, Tokens.arange(T)), params, jnp.asarray(x))
    d_params, d_x = vjp(jnp.asarray(d_y))
    assert_close(y, their_y.detach().numpy(), FORMULA)
    assert_close(d_x, their_x.grad[0].numpy(), FORMULA)
    for name, gradient in weights(d_params).items():
        assert_close(gradient, module.get_parameter(name).grad.numpy(), FORMULA, what=name)


@pytest.mark.slow
@few
@given(seed=seeds, which=st.sampled_from(["gpt_oss", "gemma2"]))
def test_sinks_and_caps_are_those_of_gpt_oss_and_gemma_2(seed, which):
    from transformers.models.gemma2.modeling_gemma2 import eager_attention_forward as gemma2
    from transformers.models.gpt_oss.modeling_gpt_oss import eager_attention_forward as gpt_oss

    rng = np.random.default_rng(seed)
    q, k, v = (rng.standard_normal(shape) for shape in ((G, R, T, K), (G, T, K), (G, T, K)))
    sinks, cap, mask = rng.standard_normal((G, R)), 0.7, np.tril(np.ones((T, T), bool))
    their_sinks = torch.tensor(sinks.ravel(), requires_grad=True)
    module = SimpleNamespace(sinks=their_sinks, num_key_value_groups=R, training=False, head_dim=K)
    theirs = {"gpt_oss": gpt_oss, "gemma2": gemma2}[which]
    given_to_them = tuple(torch.tensor(x.reshape(1, -1, T, K), requires_grad=True) for x in (q, k, v))
    options = {"softcap": cap} if which == "gemma2" else {}
    hidden = torch.tensor(np.where(mask, 0, -np.inf))
    expected = theirs(module, *given_to_them, hidden, scaling=K**-0.5, **options)[0][0]
    function, first = {"gpt_oss": (sink_attention, sinks), "gemma2": (soft_capped_attention, cap)}[which]
    o, vjp = jax.vjp(lambda *inputs: function(*inputs, mask), *map(jnp.asarray, (first, q, k, v)))
    assert_close(np.asarray(o).reshape(-1, T, K).swapaxes(0, 1), expected.detach().numpy(), FORMULA)
    d_o = rng.standard_normal(expected.shape)
    expected.backward(torch.tensor(d_o))
    d_first, *gradients = vjp(jnp.asarray(d_o.swapaxes(0, 1).reshape(G, R, T, K)))
    for gradient, x in zip(gradients, given_to_them, strict=True):
        assert_close(gradient.reshape(-1, T, K), x.grad[0].numpy(), FORMULA)
    if which == "gpt_oss":
        assert_close(d_first.ravel(), their_sinks.grad.numpy(), FORMULA)


@pytest.mark.slow
@few
@given(seed=seeds, chunk=st.sampled_from([1, 2, 8]))
def test_the_gated_delta_rule_is_qwens_in_both_of_its_forms(seed, chunk):
    from transformers.models.qwen3_next import modeling_qwen3_next as qwen

    rng = np.random.default_rng(seed)
    q, k, v = (rng.standard_normal((G, T, width)) for width in (K, K, K + 1))
    k /= np.linalg.norm(k, axis=-1, keepdims=True)
    beta, log_decay = rng.random((G, T)), -rng.random((G, T))
    state, o = delta_chunked(jnp.zeros((G, K, K + 1)), q / np.sqrt(K), k, v, beta, log_decay, chunk=chunk)
    inputs = [torch.tensor(np.moveaxis(x, 0, 1)[None].copy()) for x in (q, k, v, log_decay, beta)]
    for theirs in (qwen.torch_recurrent_gated_delta_rule, qwen.torch_chunk_gated_delta_rule):
        their_o, their_state = theirs(*inputs, output_final_state=True)
        assert_close(o, np.moveaxis(their_o[0].numpy(), 1, 0), FORMULA)
        assert_close(state, their_state[0].numpy(), FORMULA)


@few
@given(seed=seeds)
def test_decay_between_tokens_is_the_exponential_of_mamba_2s_segment_sums(seed):
    from transformers.models.mamba2.modeling_mamba2 import segment_sum

    log_decay = -np.random.default_rng(seed).random((G, T))
    assert_close(decay_matrix(log_decay), torch.exp(segment_sum(torch.tensor(log_decay))).numpy(), FORMULA)


@given(n=st.integers(1, 40))
def test_alibis_slopes_are_those_of_bloom(n):
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor

    theirs = build_alibi_tensor(torch.ones(1, 2), n, torch.float64)[:, 0, 1]
    assert_close(np.array(biases.alibi_slopes(n)), theirs.numpy(), FORMULA)


@given(
    distance=st.lists(st.integers(-300, 300), min_size=1),
    both=st.booleans(),
    sizes=st.sampled_from([(32, 128), (8, 20), (16, 64)]),
)
def test_t5s_buckets_are_t5s(distance, both, sizes):
    from transformers.models.t5.modeling_t5 import T5Attention

    buckets, longest = sizes
    ours = biases.t5_bucket(np.array(distance), n_buckets=buckets, bidirectional=both, max_distance=longest)
    theirs = T5Attention._relative_position_bucket(torch.tensor(distance), both, buckets, longest)
    assert ours.tolist() == theirs.tolist()


LENGTH = 64
ROTARY = {
    "linear": lambda k, f, n: (rotary_scaling.linear_frequencies(k, factor=f), 1.0),
    "dynamic": lambda k, f, n: (
        rotary_scaling.dynamic_ntk_frequencies(k, factor=f, length=n, trained_length=LENGTH),
        1.0,
    ),
    "yarn": lambda k, f, n: rotary_scaling.yarn_frequencies(k, factor=f, trained_length=LENGTH),
    "llama3": lambda k, f, n: (rotary_scaling.llama3_frequencies(k, 10000.0, factor=f, trained_length=LENGTH), 1.0),
}


@pytest.mark.parametrize("kind", ROTARY)
@given(k=st.sampled_from([4, 8, 32]), factor=st.sampled_from([1.0, 2.0, 8.0]), length=st.integers(1, 300))
def test_frequencies_and_magnitude_are_those_that_hugging_face_gives_a_model(kind, k, factor, length):
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaling = {"rope_type": kind, "rope_theta": 10000.0, "factor": factor, "original_max_position_embeddings": LENGTH}
    scaling |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0} if kind == "llama3" else {}
    made = config("Llama", head_dim=k, max_position_embeddings=LENGTH, rope_parameters=scaling)
    frequencies, magnitude = ROPE_INIT_FUNCTIONS[kind](made, "cpu", seq_len=length)
    ours, our_magnitude = ROTARY[kind](k, factor, max(length, LENGTH))
    assert_close(ours, frequencies.numpy(), FORMULA)
    assert_close(our_magnitude, magnitude, FORMULA)
