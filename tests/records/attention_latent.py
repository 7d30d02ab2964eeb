import numpy as np
from hypothesis import strategies as st

from minilm.layers.attention import latent
from minilm.reference.attention import latent as reference
from minilm.shapes import Tokens
from tests import torch_oracle
from tests.records import Record
from tests.strategies import arrays, mask_and_bias, seeds, sizes, weights

# (d, g, r, k, v, latent, rotary, t, s) and leading axes, together: each new shape is compiled.
SHAPES = sizes(
    ((6, 2, 3, 1, 4, 5, 2, 4, 7), (2,)), ((5, 3, 1, 4, 2, 3, 6, 7, 4), ()), ((4, 1, 2, 3, 5, 6, 2, 1, 3), (2, 1))
)


def drawn_params(draw, d, g, r, k, v, c, rotary):
    shapes = {"w_down": (d, c), "w_k_r": (d, rotary), "scale": (c,), "w_k": (c, g, k), "w_v": (c, g, v)}
    shapes |= {"w_q": (d, g, r, k), "w_q_r": (d, g, r, rotary), "w_o": (g, r, v, d)}
    return latent.LatentParams(**{name: draw(weights(*shape)) for name, shape in shapes.items()})


@st.composite
def project_arguments(draw):
    """One place for all sequences or one for each, with padding in it."""
    (*drawn, t, _), leading = draw(SHAPES)
    shape = draw(st.sampled_from([(t,), (*leading, t)]))
    rng = np.random.default_rng(draw(seeds))
    position = np.where(rng.random(shape) < 0.2, -1, rng.integers(0, 5) + np.arange(t))
    return drawn_params(draw, *drawn), draw(weights(*leading, t, drawn[0])), position


@st.composite
def expand_arguments(draw):
    (*drawn, _, s), leading = draw(SHAPES)
    *_, c, rotary = drawn
    return drawn_params(draw, *drawn), draw(arrays(*leading, s, c)), draw(arrays(*leading, s, rotary))


@st.composite
def attention_arguments(draw):
    (*drawn, t, s), _ = draw(SHAPES)
    _, g, r, k, _, c, rotary = drawn
    q, remembered = draw(arrays(g, r, t, k + rotary)), (draw(arrays(s, c)), draw(arrays(s, rotary)))
    return drawn_params(draw, *drawn), q, *remembered, *mask_and_bias(draw, g, r, t, s)


@st.composite
def append_arguments(draw):
    """A chunk at any position, which may go round the cache's end, with padding before, between or after its tokens."""
    size, c, rotary, t = draw(sizes((5, 3, 4, 3), (4, 2, 6, 4), (7, 1, 2, 2)))
    rng = np.random.default_rng(draw(seeds))
    held = Tokens(rng.integers(-1, 9, size), rng.integers(0, 3, size))
    position = draw(st.sampled_from([0, 3, 6, 20])) + np.arange(t)
    chunk = Tokens(np.where(rng.random(t) < 0.7, position, -1), rng.integers(0, 3, t))
    full = latent.LatentCache(c=draw(arrays(size, c)), k_r=draw(arrays(size, rotary)), tokens=held)
    return full, draw(arrays(t, c)), draw(arrays(t, rotary)), chunk


def torch_rotary(x, position):
    """Entries m and m + half as one complex number, turned."""
    import torch

    half = x.shape[-1] // 2
    angle = position[..., None] * 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    turned = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([turned.real, turned.imag], -1)


def torch_project(params, x, position):
    import torch

    q_n, q_r = (torch.tensordot(x, w, 1).movedim(-4, -2) for w in (params.w_q, params.w_q_r))
    c = torch.nn.functional.rms_norm(x @ params.w_down, params.scale.shape, params.scale, 1e-6)
    q = torch.cat([q_n, torch_rotary(q_r, position[..., None, None, :])], -1)
    return q, c, torch_rotary(x @ params.w_k_r, position)


def torch_attention(params, q, c, k_r, mask, bias):
    """The expanded form: keys and values multiplied out, and PyTorch's own attention with the root of their width."""
    import torch

    k_c, v = (torch.tensordot(c, w, 1).movedim(1, 0) for w in (params.w_k, params.w_v))
    k = torch.cat([k_c, k_r.expand(len(k_c), -1, -1)], -1)
    return torch_oracle.attention(q, k, v, mask, bias)


def record(name, arguments, **rest):
    function, backward = getattr(latent, name), getattr(reference, f"{name}_backward")
    return Record(function, getattr(reference, name), backward, arguments, **rest)


RECORDS = (
    record("project_latent", project_arguments(), oracles={"torch": torch_project}, precise=False),  # rounded angles
    record("expand_latent", expand_arguments()),
    record("absorbed_attention", attention_arguments(), oracles={"torch": torch_attention}),
    record("append_latent", append_arguments()),
)
