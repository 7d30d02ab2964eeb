"""Which parameters are rounded to the compute dtype: the weights of products, and what a model reads out with."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from minilm.layers.linear import init_linear
from minilm.precision import cast_weights

KEY = jax.random.key(0)


class Params(NamedTuple):
    embedding: Any
    head: Any
    unembedding: Any = None


class Unembedded(NamedTuple):
    embedding: Any
    head: Any


def table(key):
    return jax.random.normal(key, (7, 3), jnp.float32)


def dtypes(tree):
    return {jax.tree_util.keystr(path): leaf.dtype.name for path, leaf in jax.tree.leaves_with_path(tree)}


def test_weights_are_rounded_and_nothing_else():
    assert dtypes(cast_weights({"w": (init_linear(KEY, 3, 5),)}, jnp.bfloat16)) == {
        "['w'][0].w": "bfloat16",
        "['w'][0].b": "float32",
    }


def test_a_model_without_a_place_for_what_reads_out_gets_none():
    params = Unembedded(table(KEY), init_linear(KEY, 3, 5))
    rounded = cast_weights(params, jnp.bfloat16)
    assert jax.tree.structure(rounded) == jax.tree.structure(params)
    assert rounded.embedding.dtype == jnp.float32


def test_a_tied_embedding_is_looked_up_as_it_is_and_read_out_rounded():
    params = Params(table(KEY), init_linear(KEY, 3, 5))
    rounded = cast_weights(params, jnp.bfloat16)
    assert rounded.embedding is params.embedding
    assert rounded.unembedding.dtype == jnp.bfloat16
    assert (rounded.unembedding == params.embedding.astype(jnp.bfloat16)).all()


def test_an_unembedding_of_its_own_is_rounded_itself_wherever_it_stands():
    embedding, unembedding = map(table, jax.random.split(KEY))
    params = Params(embedding, None, unembedding)
    for rounded in (cast_weights(params, jnp.bfloat16), cast_weights((params,), jnp.bfloat16)[0]):
        assert rounded.embedding is embedding
        assert (rounded.unembedding == unembedding.astype(jnp.bfloat16)).all()


def test_without_an_embedding_there_is_nothing_to_read_out_with():
    assert cast_weights(Params(None, init_linear(KEY, 3, 5)), jnp.bfloat16).unembedding is None


def test_the_gradients_of_both_uses_of_a_tied_embedding_add_up_in_it():
    def looked_up_and_read_out(params):
        rounded = cast_weights(params, jnp.bfloat16)
        return (3 * rounded.embedding).sum() + 5 * rounded.unembedding.astype(jnp.float32).sum()

    gradient = jax.grad(looked_up_and_read_out)(Params(table(KEY), None))
    assert gradient.embedding.dtype == jnp.float32
    assert (gradient.embedding == 8).all()
