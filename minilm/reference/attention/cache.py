"""The cache, one token at a time."""

import numpy as np

from minilm.reference.attention.core import Prepared


def write_slots(held, slot, new):
    """Each row replaces what stood in its slot, if there is such a slot."""
    y, written = np.array(held, float), {}
    for t, s in enumerate(map(int, slot)):
        if s < y.shape[1]:
            y[:, s] = new[:, t]
            written[t] = s
    return y, (new.shape, written)


def write_slots_backward(saved, d_y):
    """Gradients with respect to (held, slot, new): a slot's goes to the row that it took, or else to what it held."""
    shape, written = saved
    d_held, d_new = np.array(d_y), np.zeros(shape)
    for t, s in written.items():
        d_new[:, t] = d_y[:, s]
        d_held[:, s] = 0
    return d_held, None, d_new


def append(cache, k, v, tokens):
    """Each token that is no padding replaces what stood in slot position mod size."""
    new_k, new_v = np.array(cache.k, float), np.array(cache.v, float)
    position, document = np.array(cache.tokens.position), np.array(cache.tokens.document)
    written = {}
    for t, p in enumerate(map(int, tokens.position)):
        if p >= 0:
            slot = p - p // len(position) * len(position)
            new_k[:, slot], new_v[:, slot] = k[:, t], v[:, t]
            position[slot], document[slot] = p, tokens.document[t]
            written[t] = slot
    return type(cache)(k=new_k, v=new_v, tokens=type(tokens)(position, document)), (k.shape, v.shape, written)


def append_backward(saved, d_cache):
    """Gradients with respect to (cache, k, v, tokens).

    A slot holds the new token, or else the old one: its gradient goes to whichever it holds.
    """
    k_shape, v_shape, written = saved
    d_old_k, d_old_v = np.array(d_cache.k), np.array(d_cache.v)
    d_k, d_v = np.zeros(k_shape), np.zeros(v_shape)
    for t, slot in written.items():
        d_k[:, t], d_v[:, t] = d_cache.k[:, slot], d_cache.v[:, slot]
        d_old_k[:, slot] = d_old_v[:, slot] = 0
    return type(d_cache)(k=d_old_k, v=d_old_v, tokens=d_cache.tokens), d_k, d_v, None


def append_and_attend(cache, q, k, v, tokens, attend):
    """Prepare each query and key by itself, append, attend to all that the cache then holds."""
    prepared = []
    while isinstance(attend, Prepared):
        (q, k), saved = attend.prepare(q, k, tokens, tokens)
        prepared.append((attend, saved))
        attend = attend.attend
    cache, appended = append(cache, k, v, tokens)
    o, attended = attend(q, cache.k, cache.v, tokens, cache.tokens)
    return (cache, o), (prepared, appended, attend, attended)


def append_and_attend_backward(saved, d_out):
    """Gradients with respect to (cache, q, k, v, tokens, attend): keys have one from the new cache, one from o."""
    prepared, appended, attend, attended = saved
    d_cache, d_o = d_out
    d_q, d_k, d_v = attend.backward(attended, d_o)
    d_cache, d_k, d_v, _ = append_backward(appended, d_cache._replace(k=d_cache.k + d_k, v=d_cache.v + d_v))
    for outer, of_pair in reversed(prepared):
        d_q, d_k = outer.prepare_backward(of_pair, d_q, d_k)
    return d_cache, d_q, d_k, d_v, None, None
