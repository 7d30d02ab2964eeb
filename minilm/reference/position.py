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
    return rotate(x, position, _frequencies(x.shape[-1], theta))


def rotary_backward(saved, d_y):
    """Gradients with respect to (x, position): those of `rotate`, whose frequencies are fixed."""
    return rotate_backward(saved, d_y)[:2]


def rotate(x, position, frequencies, magnitude=1.0):
    """z = x[m] + i x[m + k/2] is turned by the angle p w[m], and multiplied by the magnitude."""
    half = x.shape[-1] // 2
    return _turn(x, position, frequencies, [(m, m + half) for m in range(half)], magnitude)


def rotate_backward(saved, d_y):
    """Gradients with respect to (x, position, frequencies, magnitude), of a function whose planes stand in `saved`.

    y = c u           gives  d_u = c d_y,  d_c = Re(conj(d_y) u), added over all planes and rows
    u = z e^(ia)      gives  d_z = d_u e^(-ia): the gradient is turned back, for a rotation's transpose is its inverse;
                             d_a = Re(conj(d_u) i u), how far d_u points along the turn
    a = p w           gives  d_p = sum of w d_a over the planes, and over the rows that p was broadcast to;
                             d_w = sum of p d_a over the rows
    """
    x, position, frequencies, planes, magnitude = saved
    d_x, d_position = np.zeros(x.shape), np.zeros(position.shape)
    d_frequencies, d_magnitude = np.zeros(len(planes)), 0.0
    for row in np.ndindex(x.shape[:-1]):
        place = _place(row, position)
        for m, (real, imaginary) in enumerate(planes):
            turn = cmath.exp(1j * position[place] * frequencies[m])
            turned = complex(x[row][real], x[row][imaginary]) * turn
            d = complex(d_y[row][real], d_y[row][imaginary])
            d_magnitude += (d.conjugate() * turned).real
            d_z = magnitude * d / turn
            d_x[row][real], d_x[row][imaginary] = d_z.real, d_z.imag
            d_a = magnitude * (d.conjugate() * 1j * turned).real
            d_position[place] += frequencies[m] * d_a
            d_frequencies[m] += position[place] * d_a
    return d_x, d_position, d_frequencies, d_magnitude


def rotary_interleaved(x, position, theta=10000.0):
    """z = x[2m] + i x[2m + 1] is turned by the angle p theta^(-2m/k): y = z exp(i angle)."""
    planes = [(2 * m, 2 * m + 1) for m in range(x.shape[-1] // 2)]
    return _turn(x, position, _frequencies(x.shape[-1], theta), planes)


def rotary_interleaved_backward(saved, d_y):
    """Gradients with respect to (x, position): those of `rotary`, in other planes."""
    return rotary_backward(saved, d_y)


def _turn(x, position, frequencies, planes, magnitude=1.0):
    y = np.zeros(x.shape)
    for row in np.ndindex(x.shape[:-1]):
        for m, (real, imaginary) in enumerate(planes):
            angle = position[_place(row, position)] * frequencies[m]
            z = magnitude * complex(x[row][real], x[row][imaginary]) * cmath.exp(1j * angle)
            y[row][real], y[row][imaginary] = z.real, z.imag
    return y, (x, position, frequencies, planes, magnitude)


def _place(row, position):
    """The entry of `position` for this row of x: missing leading axes and those of size 1 are shared."""
    shared = row[len(row) - position.ndim :]
    return tuple(0 if size == 1 else i for i, size in zip(shared, position.shape, strict=True))


def _frequencies(width, theta):
    return [_frequency(m, width, theta) for m in range(width // 2)]


def _frequency(m, width, theta):
    return theta ** (-2 * m / width)
