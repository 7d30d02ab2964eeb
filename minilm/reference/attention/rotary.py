"""Rotary attention: the references of turning and of attending, one after the other."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from minilm.reference import position
from minilm.reference.attention.core import Prepared


@dataclass(frozen=True)
class Rotary(Prepared):
    """Queries and keys are turned to their positions, then attended with."""

    attend: Any
    theta: float = 10000.0

    def prepare(self, q, k, query, key):
        """((q, k), saved)."""
        q, q_saved = position.rotary(q, np.asarray(query.position), self.theta)
        k, k_saved = position.rotary(k, np.asarray(key.position), self.theta)
        return (q, k), (q_saved, k_saved)

    def prepare_backward(self, saved, d_q, d_k):
        """Gradients with respect to (q, k): those of the turned ones, turned back."""
        q_saved, k_saved = saved
        return position.rotary_backward(q_saved, d_q)[0], position.rotary_backward(k_saved, d_k)[0]


@dataclass(frozen=True)
class ScaledRotary(Prepared):
    """The same, by given frequencies."""

    attend: Any
    frequencies: Any
    magnitude: Any = 1.0

    def prepare(self, q, k, query, key):
        """((q, k), saved)."""
        q, q_saved = position.rotate(q, np.asarray(query.position), self.frequencies, self.magnitude)
        k, k_saved = position.rotate(k, np.asarray(key.position), self.frequencies, self.magnitude)
        return (q, k), (q_saved, k_saved)

    def prepare_backward(self, saved, d_q, d_k):
        """Gradients with respect to (q, k)."""
        q_saved, k_saved = saved
        return position.rotate_backward(q_saved, d_q)[0], position.rotate_backward(k_saved, d_k)[0]
