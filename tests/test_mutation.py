"""The mutants are the slips they are meant to be, they reach whoever holds the function, and they leave no trace."""

import ast
import json
import tomllib
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from minilm.layers.attention.core import Dense
from minilm.layers.attention.gated import gated_mixer
from minilm.layers.attention.masks import Causal
from minilm.layers.attention.multi_head import softmax_mixer
from minilm.layers.attention.rotary import Rotary
from minilm.layers.normalization import init_rms_norm, rms_norm
from minilm.reference.linear import matmul
from minilm.shapes import Tokens
from tests import planting
from tests.mixers import drawn_params, subject
from tests.mutants import mutants_of, mutated
from tests.mutation import BAR, RESULTS, SURVIVORS, listed, run
from tests.planting import ROOT, TESTS, planted, targets
from tests.tolerances import FORMULA, assert_close

SLIPS = {
    "x + y * 2": ["x - y * 2", "x", "y * 2", "x + y / 2", "x + y", "x + 2", "x + y * 3", "x + y * 1"],
    "x.sum(axis=-1)": ["x.mean(axis=-1)", "x.sum()", "x.sum(axis=1)", "x.sum(axis=-2)", "x.sum(axis=-0)"],
    "x >= y": ["x > y", "x < y"],
    "f(x, y) if x else y": ["y if x else f(x, y)", "f(y, x) if x else y"],
    "np.where(x, y, z)": ["np.where(x, z, y)"],
    "np.sqrt(x)": ["x"],
    "x.T & True": ["x.T | True", "x.T", "True", "x & True", "x.T & False"],
    "0.5": ["5.0", "0.05"],
}


def named(path, slip):
    return next(mutant for mutant in mutants_of(path, ROOT) if mutant.name == f"{path}::{slip}")


@pytest.mark.parametrize("expression", SLIPS)
def test_an_expression_has_these_slips(expression, tmp_path):
    (tmp_path / "m.py").write_text(f'def function(x: "t", y=None):\n    """Doc 1."""\n    return {expression}\n')
    found = [
        ast.unparse(mutated(mutant, tmp_path).body[-1]).removeprefix("return ")
        for mutant in mutants_of("m.py", tmp_path)
    ]
    assert sorted(found) == sorted(SLIPS[expression])


def test_of_modules_that_share_a_name_each_has_tests_of_its_own_and_no_entry_of_the_table_is_in_vain():
    own = {
        "linear": ["linear"],
        "linear_attention/linear": ["linear_attention", "exponents", "state_precision"],
        "attention/gated": ["gated_output"],
        "linear_attention/gated": ["gated_linear", "state_precision"],
    }
    for path, names in own.items():
        for side in ("layers", "reference"):
            files = planting.test_files(f"minilm/{side}/{path}.py")[1:-1]
            assert files == [f"tests/test_{name}.py" for name in names]
    both = ["tests/test_feed_forward.py", "tests/test_activation.py"]  # its own, and those that the table adds
    assert planting.test_files("minilm/layers/feed_forward.py")[1:-1] == both
    for names in TESTS.values():
        assert all((ROOT / f"tests/test_{name.partition('[')[0]}.py").exists() for name in names)


def test_every_file_of_records_is_some_module_s():
    files = {file for path in targets() for file in planting.record_files(path)}
    assert files == {str(file.relative_to(ROOT)) for file in (ROOT / "tests/records").glob("[!_]*.py")}
    assert planting.record_files("minilm/layers/recurrent/gru.py") == ["tests/records/gru.py"]
    assert planting.record_files("minilm/reference/attention/core.py") == ["tests/records/attention_core.py"]


def test_of_the_tests_of_all_variants_a_module_is_asked_those_of_its_own():
    assert planting.tests_of("minilm/layers/linear_attention/retention.py") == [
        ("tests/test_retention.py", ""),
        ("tests/test_linear_attention.py", ""),
        ("tests/test_variants.py", "[retnet"),
    ]
    covers = planting._covers(mutants_of("minilm/layers/linear_attention/retention.py", ROOT)[0])
    files = "test_linear_attention.py::test[rwkv6]", "test_variants.py::test[retnet-3]", "test_variants.py::test[gla]"
    assert [covers(SimpleNamespace(nodeid=f"tests/{each}")) for each in files] == [True, True, False]


def test_a_mutant_reaches_who_imported_the_function_and_leaves_with_the_context():
    x, w = np.arange(6.0).reshape(2, 3), np.ones((3, 4))
    right = matmul(x, w)[0]
    with planted(named("minilm/reference/linear.py", "matmul: x[row][i] * w[i, j] → x[row][i] / w[i, j]")):
        np.testing.assert_array_equal(matmul(x, w)[0], right)  # of ones: not every input shows a bug
        assert not np.array_equal(matmul(x, 2 * w)[0], 2 * right)
    np.testing.assert_array_equal(matmul(x, 2 * w)[0], 2 * right)


def test_a_mutant_reaches_a_compiled_layer():
    params, x = init_rms_norm(3), jnp.array([1.0, 2.0, 4.0])
    right = rms_norm(params, x)
    mutant = next(
        m
        for m in mutants_of("minilm/layers/normalization.py", ROOT)
        if m.name.startswith("minilm/layers/normalization.py::rms_norm: jax.lax.rsqrt(")
    )
    with planted(mutant), jax.disable_jit():
        assert not jnp.array_equal(rms_norm(params, x), right)
    assert jnp.array_equal(rms_norm(params, x), right)


def test_a_mutant_reaches_what_its_function_made_before():
    mixer, x = gated_mixer(Dense(Causal()), g=1, r=1, k=2, v=2), jnp.array([[1.0, 2.0], [3.0, -1.0], [0.5, 1.0]])
    params, where = drawn_params(mixer, 2), Tokens.arange(3)
    right = mixer.apply(params, x, where)
    slip = "gated_mixer: attend(q, k, v, tokens, tokens) → attend(k, q, v, tokens, tokens)"
    with planted(named("minilm/layers/attention/gated.py", slip)), pytest.raises(TypeCheckError):
        mixer.apply(params, x, where)
    assert jnp.array_equal(mixer.apply(params, x, where), right)


def test_what_tests_ask_of_mixers_they_may_ask_uncompiled():
    s, x = subject(softmax_mixer(Rotary(Dense(Causal())), g=1, r=1, k=2, v=2), 2), np.array([[1.0, 2.0], [3.0, -1.0]])
    compiled = s.whole(x)
    with jax.disable_jit():  # NumPy's arrays and rotary's frequencies meet annotations that ask for JAX's
        assert_close(s.whole(x), compiled, FORMULA)


def test_what_is_made_under_a_mutant_and_kept_is_sound_when_it_has_left():
    slip = "gated_mixer: attend(q, k, v, tokens, tokens) → attend(k, q, v, tokens, tokens)"
    with planted(named("minilm/layers/attention/gated.py", slip)):
        mixer = gated_mixer(Dense(Causal()), g=1, r=1, k=2, v=2)
    params, x = drawn_params(mixer, 2), jnp.array([[1.0, 2.0], [3.0, -1.0]])
    sound = gated_mixer(Dense(Causal()), g=1, r=1, k=2, v=2).apply(params, x, Tokens.arange(2))
    assert jnp.array_equal(mixer.apply(params, x, Tokens.arange(2)), sound)


def test_before_each_test_a_worker_says_that_it_goes_on(monkeypatch):
    told, mutant = [], mutants_of("minilm/layers/linear.py", ROOT)[0]
    monkeypatch.setattr(planting, "_passes", lambda item: True)
    runner = planting.Runner([mutant], lambda *news: told.append(news), seconds=1)
    assert runner.first_failure(mutant, ["one test", "another"], clear=False) is None
    assert told == 2 * [(mutant.name, "started")]


def test_no_two_mutants_share_a_name_and_every_listed_survivor_is_one_of_them_with_its_reason():
    names = [mutant.name for path in targets() for mutant in mutants_of(path, ROOT)]
    assert len(names) == len(set(names))
    assert not listed() - set(names)
    reasons = [reason for slips in tomllib.loads(SURVIVORS.read_text()).values() for reason in slips.values()]
    assert all(len(reason) > 10 for reason in reasons)
    assert len(reasons) <= 0.05 * len(names)


def test_of_all_mutants_that_were_asked_most_are_noticed_and_no_survivor_lacks_a_reason():
    """Of results that are kept for longer than their modules, what is no mutant any more is no survivor."""
    names = {mutant.name for path in targets() for mutant in mutants_of(path, ROOT)}
    results = json.loads(RESULTS.read_text())
    alive = {f"{path}::{slip}" for path, own in results.items() for slip in own["survived"]}
    assert alive & names <= listed()
    assert len(alive) <= (1 - BAR) * sum(own["mutants"] for own in results.values())


@pytest.mark.slow
def test_the_runner_tells_a_bug_that_tests_notice_from_one_that_none_could(capsys):
    path = "minilm/layers/linear.py"
    bug = named(path, "linear: y + params.b.astype(y.dtype) → y - params.b.astype(y.dtype)")
    none = named(path, "_rounded_matmul_forward: 0 → 1")
    others = [named(path, f"_sum_of_outer_products: -1 → 1{which}") for which in ("", " (#2)")]
    outcomes = run([none, bug, *others], seconds=300)  # one after the other: tests must witness more than once
    assert outcomes[bug.name].startswith("tests/test_layers.py")
    assert {outcomes[mutant.name] for mutant in (none, *others)} == {"survived"}
    assert "no witness" not in capsys.readouterr().out
