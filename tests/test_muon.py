"""Muon: equal to its mathematics by hand, for the weights of products and for nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings

from minilm.config import OptimizerConfig
from minilm.models import gpt, modern
from minilm.optimizers import matrices, muon
from minilm.precision import is_weight
from minilm.reference import optimizers
from tests.strategies import seeds
from tests.tolerances import FORMULA, assert_close

CONFIG = OptimizerConfig(optimizer="muon", learning_rate=0.5, matrix_learning_rate=0.25, weight_decay=0.0)
RATE = CONFIG.matrix_learning_rate


def normal_like(tree, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape)), tree)


def parameters(model):
    config = model.Config(vocab_size=11, context_length=6, n_layers=1, n_heads=3, d_model=12)
    return normal_like(model.init(jax.random.key(0), config), 0)


MUON = muon(CONFIG, lambda t: CONFIG.learning_rate)
NADAM = optax.nadam(CONFIG.learning_rate, b1=CONFIG.beta_1, b2=CONFIG.beta_2)
muon_update, nadam_update = jax.jit(MUON.update), jax.jit(NADAM.update)


@settings(max_examples=4)
@given(seed=seeds)
@pytest.mark.parametrize("model", [gpt, modern])
def test_every_weight_moves_as_its_matrix_does_by_hand_and_all_else_by_nadam(model, seed):
    params = parameters(model)
    state, nadam_state, by_hand = MUON.init(params), NADAM.init(params), {}
    for step in range(3):
        gradient = normal_like(params, seed + step)
        updates, state = muon_update(gradient, state, params)
        expected, nadam_state = nadam_update(gradient, nadam_state, params)
        for (path, update), g, other in zip(
            jax.tree.leaves_with_path(updates), jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True
        ):
            if is_weight(path):
                name = jax.tree_util.keystr(path)
                shape = (-1, g.shape[-1]) if name.endswith("w_o") else (g.shape[0], -1)
                by_hand[name], other = optimizers.muon(by_hand.get(name), np.asarray(g).reshape(shape), RATE)
                other = other.reshape(g.shape)
            assert_close(update, other, FORMULA, what=jax.tree_util.keystr(path))
    assert len(by_hand) == 6


def test_an_update_has_singular_values_near_one_whatever_those_of_the_gradient():
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.standard_normal((n, n)))[0] for n in (8, 20))
    g = left @ np.diag([1, 0.5, 0.3, 0.2, 0.1, 0.05, 0.03, 0.02]) @ right[:8]
    _, update = optimizers.muon(None, g, rate=1.0)
    values = np.linalg.svd(update, compute_uv=False) / np.sqrt(20 / 8)
    assert 0.6 < values.min() < values.max() < 1.3


def test_embeddings_norms_biases_and_the_head_are_not_muons():
    params = parameters(modern)
    specs = matrices(params)
    assert specs.embedding is None
    assert specs.unembedding is None
    assert specs.norm.scale is None
    heads = specs.blocks[0].attention.multi_head
    assert (heads.w_q.reduction_axis, heads.w_q.output_axis) == ((0,), (1, 2, 3))
    assert (heads.w_o.reduction_axis, heads.w_o.output_axis) == ((0, 1, 2), (3,))


@pytest.mark.slow
def test_without_being_told_optax_would_leave_the_heads_to_adam():
    """Why `matrices` is needed: by rank the embedding is a matrix, and a weight with an axis for its heads is none."""
    params = parameters(modern)
    transform = optax.contrib.muon(RATE)
    updates, _ = transform.update(params, transform.init(params), params)
    told, _ = muon(CONFIG, lambda t: CONFIG.learning_rate).update(
        params, muon(CONFIG, lambda t: 1.0).init(params), params
    )
    w_q, w_q_told = (tree.blocks[0].attention.multi_head.w_q.reshape(12, -1) for tree in (updates, told))
    spread, spread_told = (np.linalg.svd(w, compute_uv=False) for w in (w_q, w_q_told))
    assert spread.max() > 4 * spread.min()
    assert spread_told.max() < 4 * spread_told.min()
