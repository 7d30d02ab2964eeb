"""The attention benchmark counts what the closed forms say, and takes no time of what is wrong."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.attention import check, cores, cost, decode, ops, protocol, record, scaling, views
from benchmarks.attention.candidates import LAWS, Spec, draw, mixer
from minilm.layers.attention.masks import Causal, Chunked, SlidingWindow
from minilm.shapes import Mixer, Tokens
from minilm.variants.softmax import ruled
from tests.tolerances import FORMULA, assert_close

HEADS, WIDTH, T = 2, 4, 12
PEAK = {"flops": 1e9, "bandwidth": 1e8}


def asked(**changes):
    """The options of a small measurement, and a command line that says so."""
    sizes = {"lengths": [T], "contexts": [T], "total": 2 * T, "heads": HEADS, "width": HEADS * WIDTH}
    rest = {
        "modes": ["fwd"],
        "dtype": ["float32"],
        "budget": 0.01,
        "memory": 8.0,
        "accelerator": False,
        "out": None,
        "command": "minilm bench attention ops",
    }
    return SimpleNamespace(**sizes | rest | changes)


@pytest.fixture
def measured(monkeypatch):
    """Rows of candidates in a small measurement, on a machine whose peak is known."""
    monkeypatch.setattr(cost, "peak", lambda clock: PEAK)
    return lambda *candidates, **changes: ops.measured(candidates, asked(**changes))


# ── counting ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("tile", [3, 8, 100])
def test_pairs_are_those_of_the_closed_forms(tile):
    n, w, c, p = 23, 5, 4, 9
    tokens = Tokens.arange(n)
    assert cost.pairs(Causal(), tokens, tile) == n * (n + 1) // 2
    assert cost.pairs(Causal() & SlidingWindow(w), tokens, tile) == w * n - w * (w - 1) // 2
    assert cost.pairs(Causal() & Chunked(c), tokens, tile) == 5 * c * (c + 1) // 2 + 6
    assert cost.pairs(~Causal(), tokens, tile) == n * (n - 1) // 2
    prefix, documents = cores.Pattern(prefix=p), cores.Pattern(document=c)
    assert cost.pairs(prefix.rule, prefix.tokens(n), tile) == n * (n + 1) // 2 + p * (p - 1) // 2
    assert cost.pairs(documents.rule, documents.tokens(n), tile) == 5 * c * (c + 1) // 2 + 6


def test_a_tile_of_one_document_visits_no_other():
    prefix, documents = cores.Pattern(prefix=9), cores.Pattern(document=8)
    assert cost.mean_tiles(documents.rule, documents.tokens(24), tile=4) == 1.5
    assert cost.mean_tiles(Causal(), Tokens.arange(24), tile=4) == 3.5
    assert cost.mean_tiles(prefix.rule, prefix.tokens(24), tile=4) == (3 + 3 + 3 + 4 + 5 + 6) / 6


def test_useful_operations_are_those_of_the_pairs_and_of_the_recurrences():
    core = {name: cores.make(name, HEADS, WIDTH) for name in cores.CORES}
    pairs, area = T * (T + 1) // 2, WIDTH * WIDTH
    assert core["dense"].useful(T) == core["blockwise"].useful(T) == HEADS * pairs * 2 * (WIDTH + WIDTH)
    assert core["ssd"].useful(T) == core["gated"].useful(T) == HEADS * T * 2 * (area + area)
    assert core["delta"].useful(T) == HEADS * T * 3 * 2 * area
    assert core["linear"].useful(T) == HEADS * T * 2 * 2 * WIDTH * (WIDTH + 1)
    assert cores.make("dense:window=3", HEADS, WIDTH).useful(T) == HEADS * (3 * T - 3) * 2 * (WIDTH + WIDTH)


@pytest.mark.parametrize(("window", "tiles"), [(0, 1 + 2 + 3), (3, 1 + 2 + 2), (1, 3)])
def test_blockwise_and_kernels_execute_the_tiles_that_they_visit_and_dense_all_pairs(window, tiles):
    block = T // 3
    for name, pairs in (
        (f"blockwise:window={window},block={block}", tiles * block**2),
        (f"pallas:window={window},block={block}", tiles * block**2),
        (f"dense:window={window}", T * T),
    ):
        core = cores.make(name, HEADS, WIDTH)
        inputs = check.arguments(core, "normal", T, "fwd", "float32")
        assert cost.flops(core, core.function, inputs, T, "fwd")["executed"] == HEADS * pairs * 2 * (WIDTH + WIDTH)
    both = check.arguments(core, "normal", T, "fwdbwd", "float32")
    backward = cost.flops(core, check.with_gradients(core.function), both, T, "fwdbwd")
    assert backward == {"useful": 3 * core.useful(T), "executed": 3 * HEADS * T * T * 2 * (WIDTH + WIDTH)}


def test_the_roof_is_the_smaller_of_arithmetic_and_bandwidth():
    below = cost.roofline(work=100, moved=100, seconds=1e-6, peak=PEAK)
    assert (below["bound"], below["intensity"], round(below["share"], 9)) == ("memory", 1.0, 1.0)
    above = cost.roofline(work=10_000, moved=100, seconds=1e-5, peak=PEAK)
    assert (above["bound"], round(above["share"], 9)) == ("compute", 1.0)
    assert cost.roofline(None, 100, 1.0, PEAK) is None


def test_an_exponent_is_found_on_what_is_a_power():
    lengths = [512, 1024, 4096]
    for p in (0.0, 1.0, 2.5):
        assert_close(scaling.exponent(lengths, [3.0 * t**p for t in lengths]), p, FORMULA)
    assert scaling.exponent([512], [1.0]) is None


def test_one_passes_another_where_their_powers_meet_measured_or_guessed():
    linear, square = ({t: c * float(t) ** p for t in (1, 2, 4, 8, 16)} for c, p in ((5.0, 1), (1.0, 2)))
    length, reached = scaling.crossing(linear, square)
    assert reached
    assert_close(length, 5.0, FORMULA)
    ahead = {t: times / 100 for t, times in linear.items()}
    assert scaling.crossing(ahead, square) == (1.0, True)
    assert scaling.crossing({t: linear[t] for t in (1, 2)}, square) == (5.0, False)
    assert scaling.crossing(square, ahead) is None
    same = {1: 1.0, 2: 1.0}
    assert scaling.crossing({1: 1.1, 2: 0.96}, same) is None, "a small lead that comes slowly"
    assert scaling.crossing({1: 1.1, 2: 0.94}, same) is not None
    assert scaling.crossing({1: 2.0, 2: 0.96}, same) is not None
    assert scaling.crossing({t: 1e3 * times for t, times in linear.items()}, square) is None, "too far for a guess"


# ── checking ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_longer_inputs_begin_as_shorter_ones_and_one_in_a_thousand_lies_far_out():
    for law in LAWS:
        (short, long) = (draw(law, seed=3) for _ in range(2))
        np.testing.assert_array_equal(short(5, 2), long(9, 2)[:5])
    normal, outlying = (draw(law, seed=0)(10**5) for law in LAWS)
    far = [int((abs(x) > 6).sum()) for x in (normal, outlying)]
    assert far[0] == 0
    assert 30 < far[1] < 90  # of a hundred from N(0, 10²) two in three lie beyond six


def test_every_core_is_right_forward_and_backward():
    for name in (
        "dense:window=3",
        "blockwise:block=4,window=3",
        "jax-nn:window=3",
        "ssd:chunk=5",
        "linear",
        "delta:chunk=5",
    ):
        verdict = check.check(cores.make(name, HEADS, WIDTH), "fwdbwd", "float32", T)
        assert verdict["passed"], (name, verdict["reason"])


def wrong(core, function):
    return replace(core, name="wrong", function=function)


def test_a_wrong_kernel_gets_no_time_whatever_is_wrong_with_it(measured):
    dense = cores.make("dense", HEADS, WIDTH)

    def off_by_little(q, k, v):
        return dense.function(1.001 * q, k, v)

    @jax.custom_vjp
    def wrong_gradient(q, k, v):
        return dense.function(q, k, v)

    def forward(q, k, v):
        return wrong_gradient(q, k, v), (q, k, v)

    def backward(saved, d_o):
        d_q, d_k, d_v = jax.vjp(dense.function, *saved)[1](d_o)
        return d_q, d_k, 2 * d_v

    wrong_gradient.defvjp(forward, backward)

    cases = (
        (off_by_little, "fwd", "the result is off"),
        (wrong_gradient, "fwdbwd", "gradient of argument 2 is off"),
    )
    for function, mode, reason in cases:
        right, row = measured(dense, wrong(dense, function), modes=[mode])
        assert right["status"] == "ok", right
        assert right["time"]["median"] > 0
        assert (row["status"], "time" in row, "roofline" in row) == ("wrong", False, False)
        assert reason in row["reason"], row["reason"]
    with pytest.raises(ValueError, match="a row that is wrong comes with a reason and without a time"):
        record.row("ops", {}, dense, mode="fwd", sizes={}, dtype="float32", status="wrong", reason="off", time={})


@pytest.mark.parametrize(
    "name", ["dense", *(pytest.param(name, marks=pytest.mark.slow) for name in ("linear", "delta"))]
)
def test_what_is_wrong_only_in_long_sequences_gets_no_time_either(name, measured):
    core, long = cores.make(name, HEADS, WIDTH), 9 * T

    def late(q):
        return q.shape[-2] // 2

    def infinite(q, *rest):
        o = core.function(q, *rest)
        return o if q.shape[-2] == T else o.at[..., -1, -1].set(jnp.nan)

    def forgets_the_middle(q, k, *rest):
        return core.function(q, k if q.shape[-2] == T else k.at[:, late(q)].set(0), *rest)

    def has_no_gradient_there(q, k, *rest):
        kept = k.at[:, late(q)].set(jax.lax.stop_gradient(k[:, late(q)]))
        return core.function(q, k if q.shape[-2] == T else kept, *rest)

    for function, mode, reason in (
        (infinite, "fwd", "of 108 tokens, some results are not finite"),
        (forgets_the_middle, "fwd", "at 32 of 108 tokens, the result is off"),
        (has_no_gradient_there, "fwdbwd", "at 32 of 108 tokens, the gradient of argument 1 is off"),
    ):
        candidates = (replace(each, checked=T, checked_backward=T) for each in (core, wrong(core, function)))
        right, row = measured(*candidates, modes=[mode], lengths=[long])
        assert (right["status"], right["check"]["length"], right["check"]["long"]["tokens"]) == ("ok", T, 32), right
        assert (row["status"], "time" in row) == ("wrong", False)
        assert reason in row["reason"], row["reason"]


def test_a_late_token_of_a_long_result_counts_by_its_own_scale(measured):
    """What is off by a thousandth of the first token's scale, and by half of its own."""

    def fading(q, k, v):
        return v * jnp.geomspace(1.0, 1e-4, v.shape[-2])[:, None]

    def off(q, k, v):
        o = fading(q, k, v)
        return o if v.shape[-2] == T else o.at[..., -1, :].mul(1.5)

    core = replace(cores.make("dense", HEADS, WIDTH), definition=fading, at=None, checked=T)
    right, row = measured(replace(core, function=fading), wrong(core, off), lengths=[9 * T], dtype=["bfloat16"])
    assert (right["status"], row["status"], "time" in row) == ("ok", "wrong", False), (right, row)


def test_a_gradient_that_is_nothing_but_rounding_is_no_error_and_hides_none():
    """What is added to all scores of a softmax moves no weight."""
    rng = np.random.default_rng(0)
    inputs = tuple(jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in ((3, 5), (), (3, 5)))
    both = check.with_gradients(lambda scores, shift: jax.nn.softmax(scores + shift))
    out, d_scores, d_shift = both(*inputs)
    right, wrong = (check.compared((out, d, d_shift), both, inputs, "float32") for d in (d_scores, 1.01 * d_scores))
    assert right["error"] <= right["allowed"]
    assert wrong["error"] > wrong["allowed"]
    assert wrong["where"] == "the gradient of argument 0"


def test_each_token_of_a_long_result_counts_by_its_own_scale():
    expected = np.stack([np.full((HEADS, WIDTH), 10.0 ** (3 - t)) for t in range(4)], axis=1)
    found = expected.copy()
    found[0, 3, 1] *= 1.5
    of_all, by_token = (check.worst(found, expected, each) for each in (False, True))
    assert_close((of_all[0], by_token[0]), (0.0005, 0.5), FORMULA)
    assert check.worst((found, found), (expected, expected), True) == (0.5, "the result")
    assert check.worst((expected, found), (expected, expected), True)[1] == "the gradient of argument 0"


def test_a_core_and_a_mixer_of_one_name_are_two_measurements(measured):
    rows = measured(cores.make("linear", HEADS, WIDTH), mixer("linear", HEADS * WIDTH, HEADS))
    assert [(row["kind"], row["status"]) for row in rows] == [("core", "ok"), ("mixer", "ok")]
    assert len({record.identity(row) for row in rows}) == 2


def test_what_cannot_be_measured_is_a_row_with_its_reason(measured):
    dense = cores.make("dense", HEADS, WIDTH)

    def broken(q, k, v):
        raise TypeError("such heads are unknown\nto it")

    rows = measured(cores.make("jax-cudnn", HEADS, WIDTH), wrong(dense, broken))
    assert [(row["status"], row["reason"]) for row in rows] == [
        ("unsupported", "cuDNN computes on NVIDIA GPUs, and this process on cpu."),
        ("failed", "TypeError: such heads are unknown to it"),
    ]
    (row,) = measured(dense, memory=1e-6)
    assert row["status"] == "oom"
    assert "--memory allows 1e-06" in row["reason"]
    assert row["memory"]["total"] > 1000
    for name in ("pallas", "jax-triton", "jax-flash", "jax-splash"):
        assert "cpu" in cores.make(name, HEADS, WIDTH).supports(Spec("float32", "fwd")).lower()
    for spec, reason in ((Spec("float32", "fwd", "gpu"), "alone"), (Spec("bfloat16", "fwd", "gpu"), "not 4")):
        assert reason in cores.make("jax-cudnn", HEADS, WIDTH).supports(spec)
    for name, platform in (("jax-cudnn", "gpu"), ("pallas", "gpu"), ("pallas", "tpu"), ("jax-splash", "tpu")):
        assert not cores.make(f"{name}:window=9", HEADS, 64).supports(Spec("bfloat16", "fwd", platform))
    assert "not 1000" in cores.make("jax-triton", HEADS, 64).supports(Spec("bfloat16", "fwd", "gpu", 1000))


def forgetful(d, heads):
    """Its steps see only themselves: what `apply` computes, they do not."""
    whole, alone = (ruled(rule, d, heads) for rule in (Causal(), Causal() & SlidingWindow(1)))
    return Mixer(whole.init, whole.apply, whole.init_state, alone.step)


def test_a_mixer_is_held_to_its_own_steps_in_both_benchmarks(measured):
    own = f"{__name__}:forgetful"
    for rows in (
        measured(mixer("mha", 8, 2), mixer(own, 8, 2)),
        decode.measured([decode.stepping(mixer(name, 8, 2)) for name in ("mha", own)], asked()),
    ):
        right, row = rows
        assert (right["status"], row["status"], "time" in row) == ("ok", "wrong", False), (right, row)
    assert right["time"]["token"] == right["time"]["median"] / 2
    assert right["bytes"]["held"] == T * (2 * 8 * 4 + 2 * 4), "keys and values, and where each token stands"


def nowhere(d, heads):
    """What it computes is no number, by steps too."""
    whole = ruled(Causal(), d, heads)

    def step(params, state, x, tokens):
        state, y = whole.step(params, state, x, tokens)
        return state, y / 0

    return Mixer(whole.init, lambda *inputs: whole.apply(*inputs) / 0, whole.init_state, step)


def test_what_is_no_number_by_its_own_definition_either_gets_no_time(measured, tmp_path):
    own, out = mixer(f"{__name__}:nowhere", 8, 2), tmp_path / "rows.jsonl"
    decoded = decode.measured([decode.stepping(own)], asked(out=tmp_path / "decoded.jsonl"))
    assert len(record.read(tmp_path / "decoded.jsonl")) == 1
    for rows in (measured(own, modes=["fwd", "fwdbwd", "prefill"], out=out), decoded):
        for row in rows:
            assert (row["status"], "time" in row) == ("wrong", False), row
            assert "the definition itself is not finite in this precision" in row["reason"]
    assert [row["check"]["laws"]["normal"]["error"] for row in record.read(out)] == [None] * 3
    assert "Infinity" not in out.read_text(), "which is no JSON"
    assert views.figures(record.read(out)[0])["error"] == "∞ / ∞"


def test_what_was_measured_before_a_run_was_ended_is_written_beside(measured, tmp_path, monkeypatch, capsys):
    asked_for, settled = [], protocol.settled_times

    def ended(runs, **how):
        asked_for.append(runs)
        if len(asked_for) == 2:
            raise KeyboardInterrupt
        return settled(runs, **how)

    monkeypatch.setattr(protocol, "settled_times", ended)
    core, out, part = cores.make("dense", HEADS, WIDTH), tmp_path / "rows.jsonl", tmp_path / "rows.jsonl.part"
    for file, text in ((part, ""), (out, "of an earlier run")):
        file.write_text(text)
    with pytest.raises(KeyboardInterrupt):
        measured(core, lengths=[T, 2 * T], out=out)
    assert [row["sizes"]["length"] for row in record.read(part)] == [T]
    assert f"What was measured is in {part}." in capsys.readouterr().err
    assert out.read_text() == "of an earlier run"
    measured(core, lengths=[T, 2 * T], out=out)
    assert [row["sizes"]["length"] for row in record.read(out)] == [T, 2 * T]
