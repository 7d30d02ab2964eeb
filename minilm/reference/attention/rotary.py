"""Rotary attention: the references of turning and of attending, one after the other."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from minilm.reference import position


@dataclass(frozen=True)
class Rotary:
    """Queries and keys are turned to their positions, then attended with."""

    attend: Any
    theta: float = 10000.0

    def __call__(self, q, k, v, query, key):
        """One sequence: (o, saved)."""
        q, q_saved = position.rotary(q, np.asarray(query.position), self.theta)
        k, k_saved = position.rotary(k, np.asarray(key.position), self.theta)
        o, saved = self.attend(q, k, v, query, key)
        return o, (saved, q_saved, k_saved)

    def backward(self, saved, d_o):
        """Gradients with respect to (q, k, v): those of the turned ones, turned back."""
        attended, q_saved, k_saved = saved
        d_q, d_k, d_v = self.attend.backward(attended, d_o)
        return position.rotary_backward(q_saved, d_q)[0], position.rotary_backward(k_saved, d_k)[0], d_v


@dataclass(frozen=True)
class ScaledRotary:
    """The same, by given frequencies."""

    attend: Any
    frequencies: Any
    magnitude: Any = 1.0

    def __call__(self, q, k, v, query, key):
        """One sequence: (o, saved)."""
        q, q_saved = position.rotate(q, np.asarray(query.position), self.frequencies, self.magnitude)
        k, k_saved = position.rotate(k, np.asarray(key.position), self.frequencies, self.magnitude)
        o, saved = self.attend(q, k, v, query, key)
        return o, (saved, q_saved, k_saved)

    def backward(self, saved, d_o):
        """Gradients with respect to (q, k, v)."""
        attended, q_saved, k_saved = saved
        d_q, d_k, d_v = self.attend.backward(attended, d_o)
        return position.rotate_backward(q_saved, d_q)[0], position.rotate_backward(k_saved, d_k)[0], d_v
