"""Multi-head attention, one sequence, one head and one token at a time.

`attend` is a reference of its own, such as `core.Dense`: called with one sequence it gives (out, saved), and its
`backward(saved, d_out)` gives the gradients of (q, k, v).
"""

import numpy as np

from minilm.reference.attention.cache import append_and_attend, append_and_attend_backward


def project(params, x, memory):
    """q[g, r, t] = x[t] w_q[:, g, r] + b_q[g, r];  k[g, s] = memory[s] w_k[:, g] + b_k[g], and v likewise."""
    q = _project_heads(params.w_q, params.b_q, x)
    k = _project_heads(params.w_k, params.b_k, memory)
    v = _project_heads(params.w_v, params.b_v, memory)
    return (q, k, v), (params, x, memory)


def project_backward(saved, d_qkv):
    """Gradients with respect to (params, x, memory), each projection as in `linear`."""
    params, x, memory = saved
    d_q, d_k, d_v = d_qkv
    d_w_q, d_b_q, d_x = _project_heads_backward(params.w_q, params.b_q, x, d_q)
    d_w_k, d_b_k, d_memory_k = _project_heads_backward(params.w_k, params.b_k, memory, d_k)
    d_w_v, d_b_v, d_memory_v = _project_heads_backward(params.w_v, params.b_v, memory, d_v)
    d_params = _zeros(params)._replace(w_q=d_w_q, w_k=d_w_k, w_v=d_w_v, b_q=d_b_q, b_k=d_b_k, b_v=d_b_v)
    return d_params, d_x, d_memory_k + d_memory_v


def merge(params, o):
    """y[t] = sum over heads of o[g, r, t] w_o[g, r], + b_o."""
    *leading, n_groups, n_queries, length, _ = o.shape
    y = np.zeros((*leading, length, params.w_o.shape[-1]))
    for row in np.ndindex(*leading, length):
        *batch, t = row
        for g, r in np.ndindex(n_groups, n_queries):
            y[row] += o[(*batch, g, r, t)] @ params.w_o[g, r]
        y[row] += 0.0 if params.b_o is None else params.b_o
    return y, (params, o)


def merge_backward(saved, d_y):
    """Gradients with respect to (params, o).

    y[t] = sum o[g, r, t] w_o[g, r] + b_o   gives  d_o[g, r, t] = w_o[g, r] d_y[t],
    d_w_o[g, r] = sum_t of the outer products of o[g, r, t] and d_y[t],  d_b_o = sum_t d_y[t].
    """
    params, o = saved
    d_o, d_params = np.zeros(o.shape), _zeros(params)
    for index in np.ndindex(o.shape[:-1]):
        *batch, g, r, t = index
        d_o[index] = params.w_o[g, r] @ d_y[(*batch, t)]
        d_params.w_o[g, r] += np.outer(o[index], d_y[(*batch, t)])
    if params.b_o is not None:
        d_params.b_o[:] = d_y.reshape(-1, d_y.shape[-1]).sum(0)
    return d_params, d_o


def multi_head(params, x, tokens, attend, memory=None, memory_tokens=None):
    """Project all, attend sequence by sequence, merge all."""
    to_itself = memory is None
    memory, memory_tokens = (x, tokens) if to_itself else (memory, memory_tokens)
    (q, k, v), projected = project(params, x, memory)
    attended = {
        row: attend(q[row], k[row], v[row], _tokens_of(tokens, row), _tokens_of(memory_tokens, row))
        for row in np.ndindex(x.shape[:-2])
    }
    outs = [out[0] if isinstance(out, tuple) else out for out, _ in attended.values()]
    o = np.array(outs).reshape(*q.shape[:-1], v.shape[-1])
    y, merged = merge(params, o)
    return y, (projected, attend, {row: saved for row, (_, saved) in attended.items()}, merged, to_itself)


def multi_head_backward(saved, d_y):
    """Gradients with respect to (params, x, tokens, attend, memory, memory_tokens): the three lines backwards.

    Where the memory is x itself, its gradient is added to that of x.
    """
    projected, attend, attended, merged, to_itself = saved
    params, x, memory = projected
    d_params, d_o = merge_backward(merged, d_y)
    d_q = np.zeros((*x.shape[:-2], *params.w_q.shape[1:-1], x.shape[-2], params.w_q.shape[-1]))
    d_k = np.zeros((*memory.shape[:-2], params.w_k.shape[1], memory.shape[-2], params.w_k.shape[-1]))
    d_v = np.zeros((*memory.shape[:-2], params.w_v.shape[1], memory.shape[-2], params.w_v.shape[-1]))
    for row, one in attended.items():
        d_q[row], d_k[row], d_v[row] = attend.backward(one, d_o[row])
    d_projection, d_x, d_memory = project_backward(projected, (d_q, d_k, d_v))
    d_params = _add(d_params, d_projection)
    if to_itself:
        return d_params, d_x + d_memory, None, None, None, None
    return d_params, d_x, None, None, d_memory, None


def multi_head_step(params, cache, x, tokens, attend):
    """Project the chunk, append it, attend to all that the cache then holds, merge."""
    heads, projected = project(params, x, x)
    (cache, o), attended = append_and_attend(cache, *heads, tokens, attend)
    y, merged = merge(params, o)
    return (cache, y), (projected, attended, merged)


def multi_head_step_backward(saved, d_out):
    """Gradients with respect to (params, cache, x, tokens, attend)."""
    projected, attended, merged = saved
    d_cache, d_y = d_out
    d_params, d_o = merge_backward(merged, d_y)
    d_cache, *d_heads, _, _ = append_and_attend_backward(attended, (d_cache, d_o))
    d_projection, d_x, d_memory = project_backward(projected, tuple(d_heads))
    return _add(d_params, d_projection), d_cache, d_x + d_memory, None, None


def _project_heads(w, b, x):
    """y[..., heads, t, i] = x[..., t] w[:, heads, i] + b[heads, i]."""
    heads, width, leading, length = w.shape[1:-1], w.shape[-1], x.shape[:-2], x.shape[-2]
    y = np.zeros((*leading, *heads, length, width))
    for row in np.ndindex(*leading, length):
        *batch, t = row
        for head in np.ndindex(heads):
            for i in range(width):
                product = np.dot(x[row], w[(slice(None), *head, i)])
                y[(*batch, *head, t, i)] = product + (0.0 if b is None else b[(*head, i)])
    return y


def _project_heads_backward(w, b, x, d_y):
    """y = x w + b   gives  d_w = sum of the outer products of x and d_y,  d_b = sum of d_y,  d_x = w d_y."""
    d_w, d_b, d_x = np.zeros(w.shape), None if b is None else np.zeros(b.shape), np.zeros(x.shape)
    for row in np.ndindex(x.shape[:-1]):
        *batch, t = row
        for head in np.ndindex(w.shape[1:-1]):
            d = d_y[(*batch, *head, t)]
            d_w[(slice(None), *head)] += np.outer(x[row], d)
            d_x[row] += w[(slice(None), *head)] @ d
            if d_b is not None:
                d_b[head] += d
    return d_w, d_b, d_x


def _tokens_of(tokens, row):
    return type(tokens)(*(np.asarray(axis)[row] if np.ndim(axis) > 1 else np.asarray(axis) for axis in tokens))


def _zeros(params):
    return type(params)(*(None if p is None else np.zeros(p.shape) for p in params))


def _add(left, right):
    return type(left)(*(None if a is None else a + b for a, b in zip(left, right, strict=True)))
