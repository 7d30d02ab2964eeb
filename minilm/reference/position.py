"""Positions, number by number: a pair of entries is one complex number, and turning it is one multiplication."""

import cmath
import math

import numpy as np


def sinusoidal(position, d, theta=10000.0, dtype=np.float64):
    """y[2m] = sin(p w), y[2m+1] = cos(p w), with w = theta^(-2m/d)."""
    y = np.zeros((*position.shape, d), dtype)
    for place in np.ndindex(position.shape):
        for m in range(d // 2):
            angle = position[place] * _frequency(m, d, theta)
            y[place][2 * m] = math.sin(angle)
            y[place][2 * m + 1] = math.cos(angle)
    return y, (position, d, theta)


def sinusoidal_backward(saved, d_y):
    """Gradient with respect to position.

    y[2m] = sin(p w),  y[2m+1] = cos(p w)   gives  d_p = sum_m w (d_y[2m] cos(p w) - d_y[2m+1] sin(p w)).
    """
    position, d, theta = saved
    d_position = np.zeros(position.shape)
    for place in np.ndindex(position.shape):
        for m in range(d // 2):
            w = _frequency(m, d, theta)
            angle = position[place] * w
            slope = d_y[place][2 * m] * math.cos(angle) - d_y[place][2 * m + 1] * math.sin(angle)
            d_position[place] += w * slope
    return d_position


def learned(table, position):
    """y[place] = P[position[place]]; padding, at position -1, reads position 0."""
    y = np.zeros((*position.shape, table.shape[1]))
    for place in np.ndindex(position.shape):
        y[place] = table[position[place] if position[place] >= 0 else 0]
    return y, (table, position)


def learned_backward(saved, d_y):
    """Gradients with respect to (table, position); integers have none.

    y[place] = P[position[place]]   gives  d_P[position[place]] += d_y[place].
    """
    table, position = saved
    d_table = np.zeros(table.shape)
    for place in np.ndindex(position.shape):
        d_table[position[place] if position[place] >= 0 else 0] += d_y[place]
    return d_table, None


def rotary(x, position, theta=10000.0):
    """z = x[m] + i x[m + k/2] is turned by the angle p theta^(-2m/k): y = z exp(i angle)."""
    half = x.shape[-1] // 2
    return _turn(x, position, theta, [(m, m + half) for m in range(half)])


def rotary_backward(saved, d_y):
    """Gradients with respect to (x, position), of a function whose planes stand in `saved`.

    y = z e^(ia)      gives  d_z = d_y e^(-ia): the gradient is turned back, for a rotation's transpose is its inverse;
                             d_a = Re(conj(d_y) i y), how far d_y points along the turn
    a = p w           gives  d_p = sum of w d_a over the planes, and over the rows that p was broadcast to
    """
    y, position, theta, planes = saved
    d_x, d_position = np.zeros(y.shape), np.zeros(position.shape)
    for row in np.ndindex(y.shape[:-1]):
        place = _place(row, position)
        for m, (real, imaginary) in enumerate(planes):
            w = _frequency(m, y.shape[-1], theta)
            d = complex(d_y[row][real], d_y[row][imaginary])
            d_z = d * cmath.exp(-1j * position[place] * w)
            d_x[row][real], d_x[row][imaginary] = d_z.real, d_z.imag
            turned = complex(y[row][real], y[row][imaginary])
            d_position[place] += w * (d.conjugate() * 1j * turned).real
    return d_x, d_position


def rotary_interleaved(x, position, theta=10000.0):
    """z = x[2m] + i x[2m + 1] is turned by the angle p theta^(-2m/k): y = z exp(i angle)."""
    return _turn(x, position, theta, [(2 * m, 2 * m + 1) for m in range(x.shape[-1] // 2)])


def rotary_interleaved_backward(saved, d_y):
    """Gradients with respect to (x, position): those of `rotary`, in other planes."""
    return rotary_backward(saved, d_y)


def _turn(x, position, theta, planes):
    y = np.zeros(x.shape)
    for row in np.ndindex(x.shape[:-1]):
        for m, (real, imaginary) in enumerate(planes):
            angle = position[_place(row, position)] * _frequency(m, x.shape[-1], theta)
            z = complex(x[row][real], x[row][imaginary]) * cmath.exp(1j * angle)
            y[row][real], y[row][imaginary] = z.real, z.imag
    return y, (y, position, theta, planes)


def _place(row, position):
    """The entry of `position` for this row of x: missing leading axes and those of size 1 are shared."""
    shared = row[len(row) - position.ndim :]
    return tuple(0 if size == 1 else i for i, size in zip(shared, position.shape, strict=True))


def _frequency(m, width, theta):
    return theta ** (-2 * m / width)
