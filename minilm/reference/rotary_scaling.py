"""Rotary frequencies, plane by plane, each by how it turns: periods and numbers of turns instead of frequencies."""

import math

import numpy as np


def rotary_frequencies(width, theta=10000.0):
    """Each plane turns slower than the one before by the same ratio, theta^(2/k)."""
    frequencies, ratio = [1.0], theta ** (2 / width)
    while len(frequencies) < width / 2:
        frequencies.append(frequencies[-1] / ratio)
    return np.array(frequencies)


def linear_frequencies(width, theta=10000.0, *, factor):
    """Every period is `factor` times as long."""
    return np.array([1 / (factor * (1 / w)) for w in rotary_frequencies(width, theta)])


def ntk_frequencies(width, theta=10000.0, *, factor):
    """Of the k/2 planes, number m is slowed by factor^(m / (k/2 - 1)): the first not at all, the last by all of it."""
    last = width // 2 - 1
    return np.array([w * factor ** (-m / last) for m, w in enumerate(rotary_frequencies(width, theta))])


def dynamic_ntk_frequencies(width, theta=10000.0, *, factor, length, trained_length):
    """Beyond the trained length, each further length of it adds `factor` to what the slowest plane is slowed by."""
    beyond = max(0, length - trained_length) / trained_length
    return ntk_frequencies(width, theta, factor=1 + factor * beyond)


def yarn_frequencies(width, theta=10000.0, *, factor, trained_length, beta_fast=32.0, beta_slow=1.0, truncate=True):
    """Between the planes that turn beta_fast and beta_slow times, the share of the slowed frequency grows evenly."""
    ends = []
    for turns in (beta_fast, beta_slow):
        period = trained_length / turns
        ends.append(math.log(period / (2 * math.pi), theta) * width / 2)  # of plane m it is 2 pi theta^(2m/k)
    first, last = (math.floor(ends[0]), math.ceil(ends[1])) if truncate else ends
    first, last = max(first, 0), min(last, width - 1)
    frequencies = []
    for m, w in enumerate(rotary_frequencies(width, theta)):
        if m <= first:
            frequencies.append(w)
        elif m >= last:
            frequencies.append(w / factor)
        else:
            frequencies.append(w - (w - w / factor) * (m - first) / (last - first))
    return np.array(frequencies), 1 + math.log(factor) / 10


def llama3_frequencies(
    width,
    theta=500000.0,
    *,
    factor=8.0,
    low_frequency_factor=1.0,
    high_frequency_factor=4.0,
    trained_length=8192,
):
    """By its period: short ones stay, long ones are stretched, and between them the two frequencies are mixed."""
    frequencies = []
    for w in rotary_frequencies(width, theta):
        period = 2 * math.pi / w
        if period < trained_length / high_frequency_factor:
            frequencies.append(w)
        elif period > trained_length / low_frequency_factor:
            frequencies.append(w / factor)
        else:
            turns = trained_length / period
            share = (turns - low_frequency_factor) / (high_frequency_factor - low_frequency_factor)
            frequencies.append(w / factor + share * (w - w / factor))
    return np.array(frequencies)
