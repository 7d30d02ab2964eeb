"""Queries and keys of one size: any attention behind two norms, and attention by the cosine, pair by pair."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from minilm.reference.attention.core import Prepared, _unbroadcast, mix, mix_backward
from minilm.reference.normalization import rms_norm, rms_norm_backward


@dataclass(frozen=True)
class NormalizedHeads(Prepared):
    """Both norms, then the attention that it holds."""

    attend: Any
    q_norm: Any
    k_norm: Any

    def prepare(self, q, k, query, key):
        """((q, k), saved)."""
        q, q_normalized = rms_norm(self.q_norm, q)
        k, k_normalized = rms_norm(self.k_norm, k)
        return (q, k), (q_normalized, k_normalized)

    def prepare_backward(self, saved, d_q, d_k):
        """Gradients with respect to (q, k)."""
        return tuple(rms_norm_backward(normalized, d)[1] for normalized, d in zip(saved, (d_q, d_k), strict=True))

    def backward_with_norms(self, saved, d_o):
        """Gradients with respect to (q_norm, k_norm, q, k, v): those of the attention, through the norms."""
        (q_normalized, k_normalized), attended = saved
        d_q, d_k, d_v = self.attend.backward(attended, d_o)
        d_q_norm, d_q = rms_norm_backward(q_normalized, d_q)
        d_k_norm, d_k = rms_norm_backward(k_normalized, d_k)
        return d_q_norm, d_k_norm, d_q, d_k, d_v


@dataclass(frozen=True)
class CosineHeads(Prepared):
    """Directions, queries with their temperature, then the attention that it holds."""

    attend: Any
    scale: Any

    def prepare(self, q, k, query, key):
        """((q, k), saved)."""
        (q_unit, q_size), (k_unit, k_size) = _units(q), _units(k)
        longer = np.zeros(q.shape)
        for g, r, t, i in np.ndindex(q.shape):
            longer[g, r, t, i] = self.scale[g, r] * math.sqrt(q.shape[3]) * q_unit[g, r, t, i]
        return (longer, k_unit), (q_unit, q_size, k_unit, k_size)

    def prepare_backward(self, saved, d_q, d_k):
        """Gradients with respect to (q, k): q = scale sqrt(k) m  gives  d_m = scale sqrt(k) d_q; m as below."""
        q_unit, q_size, k_unit, k_size = saved
        d_q_unit = np.zeros(d_q.shape)
        for g, r, t, i in np.ndindex(d_q.shape):
            d_q_unit[g, r, t, i] = self.scale[g, r] * math.sqrt(d_q.shape[3]) * d_q[g, r, t, i]
        return _units_backward(q_unit, q_size, d_q_unit), _units_backward(k_unit, k_size, d_k)

    def backward_with_scale(self, saved, d_o):
        """Gradients with respect to (scale, q, k, v): d_scale[g, r] = sqrt(k) sum of d_q m."""
        prepared, attended = saved
        d_q, d_k, d_v = self.attend.backward(attended, d_o)
        d_scale = np.zeros(self.scale.shape)
        for g, r, t, i in np.ndindex(d_q.shape):
            d_scale[g, r] += math.sqrt(d_q.shape[3]) * d_q[g, r, t, i] * prepared[0][g, r, t, i]
        return d_scale, *self.prepare_backward(prepared, d_q, d_k), d_v


def cosine_attention(scale, q, k, v, mask=True, bias=0.0):
    """a[t, s] = scale[g, r] q[t] . k[s] / (|q[t]| |k[s]|) + bias, and weights as ever."""
    (q_unit, q_size), (k_unit, k_size) = _units(q), _units(k)
    cosines = np.zeros((*q.shape[:3], k.shape[1]))
    allowed, added = np.broadcast_to(mask, cosines.shape), np.broadcast_to(bias, cosines.shape)
    weights = np.zeros(cosines.shape)
    for g, r, t in np.ndindex(q.shape[:3]):
        a = {}
        for s in range(k.shape[1]):
            cosines[g, r, t, s] = sum(q_unit[g, r, t, i] * k_unit[g, s, i] for i in range(q.shape[3]))
            if allowed[g, r, t, s]:
                a[s] = scale[g, r] * cosines[g, r, t, s] + added[g, r, t, s]
        largest = max(a.values(), default=0.0)
        total = sum(math.exp(one - largest) for one in a.values())
        for s, one in a.items():
            weights[g, r, t, s] = math.exp(one - largest) / total
    o, _ = mix(weights, v)
    return o, (scale, q_unit, q_size, k_unit, k_size, v, cosines, weights, bias)


def cosine_attention_backward(saved, d_o):
    """Gradients with respect to (scale, q, k, v, mask, bias).

    o = w v                     gives  d_w and d_v as in `mix`
    w = softmax(a)              gives  d_a[s] = w[s] (d_w[s] - sum_u w[u] d_w[u]), zero where masked since w is
    a = scale c + b             gives  d_b = d_a,  d_scale[g, r] = sum of d_a c,  d_c = scale d_a
    c = m[t] . n[s]             gives  d_m[t] = sum_s d_c n[s],  d_n[s] = sum_t d_c m[t], over the r queries of a key
    m = q / z,  z = |q|         has    dz/dq[i] = m[i],  dm[j]/dq[i] = ((i == j) - m[j] m[i]) / z, hence
                                       d_q = (d_m - m (m . d_m)) / z, and d_k likewise: nothing along the vector itself
    """
    scale, q_unit, q_size, k_unit, k_size, v, cosines, weights, bias = saved
    d_weights, d_v = mix_backward((weights, v), d_o)
    d_a, d_scale = np.zeros(weights.shape), np.zeros(scale.shape)
    d_q_unit, d_k_unit = np.zeros(q_unit.shape), np.zeros(k_unit.shape)
    for g, r, t in np.ndindex(weights.shape[:3]):
        w, d_w = weights[g, r, t], d_weights[g, r, t]
        d_a[g, r, t] = w * (d_w - np.dot(w, d_w))
        d_scale[g, r] += np.dot(d_a[g, r, t], cosines[g, r, t])
        for s in range(len(w)):
            d_q_unit[g, r, t] += scale[g, r] * d_a[g, r, t, s] * k_unit[g, s]
            d_k_unit[g, s] += scale[g, r] * d_a[g, r, t, s] * q_unit[g, r, t]
    d_q, d_k = _units_backward(q_unit, q_size, d_q_unit), _units_backward(k_unit, k_size, d_k_unit)
    return d_scale, d_q, d_k, d_v, None, _unbroadcast(d_a, np.shape(bias))


def _units(x):
    """Each vector over its length, with a millionth beneath the root for each entry, and that length."""
    unit, size = np.zeros(x.shape), np.zeros(x.shape[:-1])
    for row in np.ndindex(x.shape[:-1]):
        size[row] = math.sqrt(math.fsum(a * a + 1e-6 for a in x[row]))
        unit[row] = x[row] / size[row]
    return unit, size


def _units_backward(unit, size, d_unit):
    d_x = np.zeros(unit.shape)
    for row in np.ndindex(size.shape):
        d_x[row] = (d_unit[row] - unit[row] * np.dot(unit[row], d_unit[row])) / size[row]
    return d_x
