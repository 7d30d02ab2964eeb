"""How the attention benchmark takes times: in turn, until they are settled, in the time that a device was at work."""

import itertools

import jax
import jax.numpy as jnp
import pytest
from jax.profiler import ProfileData

from benchmarks.attention import __main__ as command
from benchmarks.attention import cost, device_time, protocol, record
from tests.tolerances import FORMULA, assert_close


class Clock:
    """A clock that only work moves, by what each of its runs takes; `turns` is who ran."""

    def __init__(self):
        self.now, self.turns = 0.0, ""

    def __call__(self):
        return self.now

    def run(self, name, seconds):
        def work():
            self.turns += name
            self.now += next(seconds)

        return work


def test_candidates_take_turns_until_their_times_are_settled():
    clock = Clock()
    runs = {"a": clock.run("a", itertools.repeat(1.0)), "b": clock.run("b", itertools.repeat(2.0))}
    times, _ = protocol.settled_times(runs, seconds=1e9, timer=protocol.by_clock("made-up", clock))
    assert times == {"a": [1.0] * protocol.FEWEST, "b": [2.0] * protocol.FEWEST}
    assert clock.turns == "aabb" + "ab" * protocol.FEWEST, "two runs each to begin with, then in turn"


@pytest.mark.parametrize(("seconds", "rounds"), [(1e9, protocol.MOST), (30.0, 12), (0.1, protocol.FEWEST)])
def test_what_does_not_settle_is_sampled_until_the_budget_is_spent(seconds, rounds):
    clock = Clock()
    times, _ = protocol.settled_times(
        {"a": clock.run("a", itertools.cycle([1.0, 2.0, 5.0]))},
        seconds=seconds,
        timer=protocol.by_clock("made-up", clock),
    )
    assert len(times["a"]) == rounds
    assert not protocol.summary(times["a"], 0.0, "CPU time")["settled"]


@pytest.mark.parametrize("at", range(1, 5))
def test_of_what_fails_while_it_is_timed_the_reason_is_kept_and_the_others_are_timed(at):
    clock, calls = Clock(), itertools.count(1)
    right = clock.run("a", itertools.repeat(1.0))

    def flaky():
        if next(calls) == at:
            raise OSError("the device is gone\nfor good")
        right()

    times, failed = protocol.settled_times(
        {"flaky": flaky, "a": right}, seconds=1e9, timer=protocol.by_clock("made-up", clock)
    )
    assert times == {"a": [1.0] * protocol.FEWEST}
    assert failed == {"flaky": {"status": "failed", "reason": "OSError: the device is gone for good"}}
    alone, failed = protocol.settled_times({"flaky": lambda: 1 / 0}, seconds=1.0)
    assert (alone, list(failed)) == ({}, ["flaky"])


def test_a_failure_says_all_that_differs_in_a_line_that_is_not_endless():
    def grown(x, _):
        return jnp.concatenate([x, x]), None

    with pytest.raises(TypeError) as error:
        jax.lax.scan(grown, jnp.ones(2), jnp.ones(3))
    reason = protocol.failure(error.value)["reason"]
    assert "\n" not in reason
    assert "but they differ" in reason
    assert "[2]" in reason
    assert "[4], so the shapes do not match" in reason
    assert protocol.failure(OSError("gone " * 99 + "for good"))["reason"] == f"OSError: {'gone ' * 78}…"
    assert protocol.failure(AssertionError())["reason"] == "AssertionError"


def test_a_sample_of_a_short_run_is_many_calls():
    clock = Clock()
    times, _ = protocol.settled_times(
        {"a": clock.run("a", itertools.repeat(protocol.SAMPLE / 10))},
        seconds=1,
        timer=protocol.by_clock("made-up", clock),
    )
    assert 9 * protocol.FEWEST <= len(clock.turns) - 2 <= 10 * protocol.FEWEST
    assert_close(times["a"][0], protocol.SAMPLE / 10, FORMULA)


# ── devices ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def profile(**lines):
    """A profile of a GPU: line -> (start, duration) of its events, in milliseconds."""

    def written(name, events):
        inside = " ".join(f"events {{offset_ps: {10**9 * start} duration_ps: {10**9 * n}}}" for start, n in events)
        return f'lines {{name: "{name}" timestamp_ns: 7 {inside}}}'

    planes = {"/device:GPU:0": lines, "/host:CPU": {"Stream #9 of the host": [(0, 1000)]}}
    text = (f'planes {{name: "{p}" {" ".join(itertools.starmap(written, x.items()))}}}' for p, x in planes.items())
    return ProfileData.from_text_proto(" ".join(text))


def test_the_time_of_a_device_is_that_in_which_any_of_its_kernels_ran():
    lines = {"Stream #13(Compute)": [(20, 4), (0, 5)], "Stream #14(MemcpyD2D)": [(3, 4), (22, 1)], "Steps": [(0, 99)]}
    assert_close(device_time.busy(profile(**lines)), 0.011, FORMULA)
    assert_close(device_time.busy(profile(**{"XLA Ops": [(1, 2)], "XLA Modules": [(0, 9)]})), 0.002, FORMULA)
    assert device_time.busy(profile()) == 0


def test_what_ran_on_no_device_has_no_device_time():
    """A real profile, of a CPU: it stands in the planes of the host."""
    runs = []
    square = jax.jit(lambda x: x @ x)
    with pytest.raises(RuntimeError, match="saw nothing that ran on a device"):
        device_time.device_seconds(lambda: runs.append(square(jnp.ones((8, 8))).block_until_ready()), 3)
    assert len(runs) == 3


def test_an_accelerator_is_timed_by_its_own_work(monkeypatch, capsys):
    assert protocol.timer(False).name == "CPU time"
    assert protocol.timer(True).name == "wall-clock time", "where there is none"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert protocol.timer(True).name == "wall-clock time", "where the profiler sees nothing"
    assert "saw nothing that ran on a device, so that there is no device time. Times" in capsys.readouterr().err
    monkeypatch.setattr(protocol, "DEVICE", protocol.DEVICE._replace(took=lambda run, calls: run().sum() * calls))
    assert (protocol.timer(True).name, protocol.timer(True).took(lambda: jnp.ones(2), 3)) == ("device time", 6.0)


@pytest.mark.parametrize(("flag", "clock"), [([], "CPU time"), (["--accelerator"], "wall-clock time")])
def test_one_core_is_held_to_unless_an_accelerator_is_asked_for(flag, clock, monkeypatch, tmp_path):
    pinned, out = [], tmp_path / "mine.jsonl"
    monkeypatch.setattr(command.measure, "pin", lambda: pinned.append(True))
    monkeypatch.setattr("minilm.allocator.tune", lambda: None)
    monkeypatch.setattr(cost, "peak", lambda clock: {"flops": 1e9, "bandwidth": 1e8})
    words = ["ops", "--cores", "dense", "--lengths", "8", "--heads", "2", "--width", "8", "--budget", "0.01"]
    assert command.main([*words, "--out", str(out), *flag]) == 0
    assert (pinned, record.read(out)[0]["time"]["clock"]) == ([True] * (not flag), clock)
