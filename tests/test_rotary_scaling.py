"""Rotary frequencies for longer texts: what each method does to fast and to slow planes, and others' figures."""

import inspect
import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from minilm.layers import rotary_scaling
from minilm.layers.position import rotary, rotate
from minilm.layers.rotary_scaling import (
    dynamic_ntk_frequencies,
    linear_frequencies,
    llama3_frequencies,
    ntk_frequencies,
    rotary_frequencies,
    yarn_frequencies,
)
from minilm.reference import rotary_scaling as reference
from tests.strategies import seeds
from tests.tolerances import FORMULA, assert_close

widths = st.sampled_from([4, 6, 16, 64, 128])
thetas = st.sampled_from([100.0, 10000.0, 500000.0])
factors = st.sampled_from([1.0, 1.5, 4.0, 32.0])

# What transformers 5.24.0 gives: ROPE_INIT_FUNCTIONS of its modeling_rope_utils.py, whose float32 was replaced by
# float64 so that the smallest figures have all their digits; as published they are these, rounded. First its name for
# the method, the head's width and theta, then our options, and the factor that it applies to cos and sin.
PUBLISHED = [
    ("linear", 12, 10000.0, {"factor": 4.0}, 1.0),
    ("dynamic_ntk", 12, 10000.0, {"factor": 2.0, "length": 5000, "trained_length": 2048}, 1.0),
    ("dynamic_ntk", 12, 10000.0, {"factor": 2.0, "length": 2000, "trained_length": 2048}, 1.0),
    ("yarn", 16, 10000.0, {"factor": 16.0, "trained_length": 4096}, 1.2772588722239782),
    ("yarn", 16, 150000.0, {"factor": 32.0, "trained_length": 4096, "truncate": False}, 1.3465735902799727),
    (
        "yarn",
        10,
        1000.0,
        {"factor": 4.0, "trained_length": 512, "beta_fast": 16.0, "beta_slow": 2.0},
        1.138629436111989,
    ),
    ("llama3", 16, 500000.0, {}, 1.0),
    ("llama3", 12, 500000.0, {"factor": 32.0}, 1.0),
]
FIGURES = """
0.25 0.0538608672507971 0.01160397208403195 0.0025 0.0005386086725079711 0.00011603972084031942
1.0 0.16424949748106668 0.026977897422782927 0.004431106094787859 0.0007278069493541979 0.00011954192569465503
1.0 0.2154434690031884 0.0464158883361278 0.01 0.0021544346900318843 0.0004641588833612777
1.0 0.31622776601683794 0.1 0.024211188335664154 0.0053125 0.0009388011803624875 6.25e-05 1.976423537605237e-05
1.0 0.2254180002028708 0.050813274815461475 0.006794959489732219 0.00045648391922324086 1.818833668168956e-05 \
4.0999784818029795e-06 9.242089502428301e-07
1.0 0.251188643150958 0.03943483403001207 0.0039622329811527844 0.000995267926383743
1.0 0.19392274474868576 0.03760603093086393 0.0072926647372171085 0.0005248461609929547 3.428102195952591e-05 \
6.647869871181236e-06 1.2891731721515574e-06
1.0 0.11224620483093732 0.012599210498948734 0.00042955679655936815 4.960628287400626e-06 5.568116988377118e-07
"""
ROWS = [[float(number) for number in line.split()] for line in FIGURES.strip().split("\n")]


def assert_same_frequencies(actual, expected):
    """Relative to each: the slowest are millions of times smaller than the fastest."""
    assert_close(np.asarray(actual) / np.asarray(expected), np.ones(len(expected)), FORMULA)


@pytest.mark.parametrize("case", range(len(ROWS)), ids=[f"{case[0]}-{case[1]}" for case in PUBLISHED])
@pytest.mark.parametrize("module", [rotary_scaling, reference], ids=["layer", "reference"])
def test_frequencies_are_those_that_others_published(module, case):
    (method, width, theta, options, magnitude), figures = PUBLISHED[case], ROWS[case]
    found = getattr(module, f"{method}_frequencies")(width, theta, **options)
    frequencies, found_magnitude = found if isinstance(found, tuple) else (found, 1.0)
    assert_same_frequencies(frequencies, figures)
    assert_close(np.array(found_magnitude), np.array(magnitude), FORMULA)


@given(
    width=widths,
    theta=thetas,
    factor=factors,
    length=st.integers(1, 9000),
    trained_length=st.sampled_from([6, 64, 1024, 2**20]),  # YaRN's ramp is before the first plane, ..., behind the last
    betas=st.sampled_from([(32.0, 1.0), (32.0, 2.0)]),
    truncate=st.booleans(),
)
@example(width=16, theta=100.0, factor=4.0, length=1, trained_length=2**20, betas=(4096.0, 1.0), truncate=True)
@example(width=128, theta=10000.0, factor=4.0, length=1, trained_length=1024, betas=(32.0, 2.0), truncate=False)
def test_frequencies_equal_their_reference(width, theta, factor, length, trained_length, betas, truncate):
    """Of the two examples one has a ramp that would end behind the last number of a head, one planes in each range."""
    drawn = {"factor": factor, "length": length, "trained_length": trained_length, "truncate": truncate}
    drawn |= {"beta_fast": betas[0], "beta_slow": betas[1], "low_frequency_factor": betas[1]}
    for name in ("rotary", "linear", "ntk", "dynamic_ntk", "yarn", "llama3"):
        function, by_hand = (getattr(module, f"{name}_frequencies") for module in (rotary_scaling, reference))
        options = {key: drawn[key] for key in drawn.keys() & inspect.signature(function).parameters.keys()}
        actual, expected = function(width, theta, **options), by_hand(width, theta, **options)
        if name == "yarn":
            (actual, magnitude), (expected, expected_magnitude) = actual, expected
            assert_close(np.array(magnitude), np.array(expected_magnitude), FORMULA)
        assert actual.shape == (width // 2,)
        assert actual.dtype == np.float64
        assert_same_frequencies(actual, expected)


@given(width=widths, theta=thetas)
def test_a_text_no_longer_than_those_of_the_training_has_the_plain_frequencies(width, theta):
    plain = rotary_frequencies(width, theta)
    assert_same_frequencies(linear_frequencies(width, theta, factor=1.0), plain)
    assert_same_frequencies(ntk_frequencies(width, theta, factor=1.0), plain)
    assert_same_frequencies(llama3_frequencies(width, theta, factor=1.0), plain)
    short = dynamic_ntk_frequencies(width, theta, factor=8.0, length=700, trained_length=1024)
    assert_same_frequencies(short, plain)
    frequencies, magnitude = yarn_frequencies(width, theta, factor=1.0, trained_length=1024)
    assert_same_frequencies(frequencies, plain)
    assert magnitude == 1.0


@given(width=st.sampled_from([16, 64, 128]), theta=thetas, factor=st.sampled_from([1.5, 4.0, 32.0]))
def test_fast_planes_are_kept_and_slow_ones_slowed_by_the_whole_factor(width, theta, factor):
    plain, trained_length = rotary_frequencies(width, theta), 4096
    turns = trained_length * plain / (2 * math.pi)
    ntk = ntk_frequencies(width, theta, factor=factor)
    assert_close(ntk[[0, -1]] / plain[[0, -1]], np.array([1, 1 / factor]), FORMULA)
    llama3 = llama3_frequencies(width, theta, factor=factor, trained_length=trained_length)
    yarn, _ = yarn_frequencies(width, theta, factor=factor, trained_length=trained_length, truncate=False)
    for scaled, fast in ((llama3, 4), (yarn, 32)):
        assert_same_frequencies(scaled[turns > fast], plain[turns > fast])
        assert_same_frequencies(scaled[turns < 1], plain[turns < 1] / factor)
        between = (turns < fast) & (turns > 1)
        assert (scaled[between] < plain[between]).all()
        assert (scaled[between] > plain[between] / factor).all()


def test_with_a_factor_of_one_dynamic_frequencies_slow_the_last_plane_by_the_texts_own_factor():
    """The paper's: s = n / L."""
    dynamic = dynamic_ntk_frequencies(6, factor=1.0, length=300, trained_length=100)
    assert_same_frequencies(dynamic, ntk_frequencies(6, factor=3.0))


def test_yarns_magnitude_grows_with_the_logarithm_of_the_factor():
    for factor in (1.0, 2.0, 40.0):
        _, magnitude = yarn_frequencies(8, factor=factor, trained_length=2048)
        assert_close(np.array(magnitude), np.array(0.1 * math.log(factor) + 1), FORMULA)


@pytest.mark.parametrize("trained_length", [1, 6])
def test_a_ramp_without_width_is_a_step(trained_length):
    """Where both ends of YaRN's ramp lie before the first plane, the first stays and all others are slowed."""
    frequencies, _ = yarn_frequencies(8, factor=4.0, trained_length=trained_length)
    assert_same_frequencies(frequencies, rotary_frequencies(8) / np.array([1, 4, 4, 4]))


@given(seed=seeds, factor=st.sampled_from([2.0, 8.0]))
def test_rotating_by_interpolated_frequencies_is_rotating_by_interpolated_positions(seed, factor):
    x, position = jnp.asarray(np.random.default_rng(seed).standard_normal((3, 2, 6))), jnp.array([3, 900])
    assert_close(rotate(x, position, linear_frequencies(6, factor=factor)), rotary(x, position / factor), FORMULA)


@given(seed=seeds)
def test_rotating_by_the_plain_frequencies_is_rotary(seed):
    x, position = jnp.asarray(np.random.default_rng(seed).standard_normal((3, 2, 6))), jnp.array([3, 900])
    np.testing.assert_array_equal(rotate(x, position, rotary_frequencies(6, 100.0)), rotary(x, position, 100.0))


@given(seed=seeds, magnitude=st.sampled_from([0.5, 1.25, 2.0]))
def test_a_magnitude_multiplies_what_is_rotated(seed, magnitude):
    x, position = jnp.asarray(np.random.default_rng(seed).standard_normal((3, 2, 6))), jnp.array([3, 900])
    turned = rotate(x, position, rotary_frequencies(6))
    assert_close(rotate(x, position, rotary_frequencies(6), magnitude), magnitude * turned, FORMULA)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_float64_frequencies_leave_the_dtype_as_it_was(dtype):
    frequencies, magnitude = yarn_frequencies(4, factor=2.0, trained_length=64)
    x = jnp.ones((2, 4), dtype)
    for given_magnitude in (magnitude, np.float64(magnitude), jnp.asarray(magnitude)):
        assert rotate(x, jnp.arange(2), frequencies, given_magnitude).dtype == dtype


def test_other_frequencies_and_magnitudes_need_no_new_compilation():
    x, position = jnp.ones((2, 4)), jnp.arange(2)
    rotate(x, position, np.array([1.0, 0.5]), 1.0)
    count = rotate._cache_size()
    rotate(x, position, np.array([1.0, 0.25]), 2.0)
    assert rotate._cache_size() == count


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: rotary_frequencies(5), "even width was expected, but it is 5"),
        (lambda: ntk_frequencies(2, factor=2.0), "width of 4 or more was expected"),
        (lambda: linear_frequencies(4, factor=0.25), "1 or more was expected, but it is 0.25"),
        (lambda: ntk_frequencies(4, factor=0.25), "1 or more was expected"),
        (lambda: dynamic_ntk_frequencies(4, factor=0.5, length=9, trained_length=4), "1 or more was expected"),
        (lambda: llama3_frequencies(4, factor=0.5), "1 or more was expected"),
        (lambda: yarn_frequencies(4, factor=0.5, trained_length=64), "1 or more was expected"),
        (lambda: yarn_frequencies(4, factor=2.0, trained_length=64, beta_fast=1.0, beta_slow=32.0), "exchange them"),
        (lambda: llama3_frequencies(4, low_frequency_factor=4.0, high_frequency_factor=1.0), "exchange them"),
        (
            lambda: rotate(jnp.ones((1, 6)), jnp.arange(1), np.ones(2)),
            "pair of 6 entries was expected",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
