"""Mixed precision in one function: the weight's dtype is the compute dtype.

The matrix products of `minilm.layers` round their operands and cotangents to the dtype of their weight and sum in
float32. So a training step holds float32 parameters, casts the weights as its loss begins, and differentiates
through the cast: gradients arrive in float32, on float32 parameters.
"""

import jax


def is_weight(path) -> bool:
    """Whether a path in a tree of parameters ends at a matrix product's weight, named `w_*` (or `w`).

    The same name decides weight decay: embeddings, norms and biases are neither rounded nor decayed.

    >>> from minilm.layers.linear import init_linear
    >>> params = {"head": init_linear(jax.random.key(0), 3, 5)}
    >>> [is_weight(path) for path, _ in jax.tree.leaves_with_path(params)]
    [True, False]
    """
    name = getattr(path[-1], "name", None)
    return name is not None and (name == "w" or name.startswith("w_"))


def cast_weights(params, dtype):
    """The parameters with their weights and un-embedding in `dtype`; norms, biases and embeddings stay as they are.

    A tied embedding is looked up in its own precision and read out in the compute dtype: its rounded copy takes the
    place of the absent `unembedding`, and the gradients of both add up in the embedding.

    >>> from minilm.layers.linear import init_linear
    >>> [leaf.dtype.name for leaf in cast_weights(init_linear(jax.random.key(0), 3, 5), 'bfloat16')]
    ['bfloat16', 'float32']
    """
    if getattr(params, "embedding", None) is not None and getattr(params, "unembedding", False) is None:
        params = params._replace(unembedding=params.embedding)

    def cast(path, leaf):
        return leaf.astype(dtype) if is_weight(path) or getattr(path[-1], "name", None) == "unembedding" else leaf

    return jax.tree.map_with_path(cast, params)
