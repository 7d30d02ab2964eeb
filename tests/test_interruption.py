"""Signals: noted by a loop, answered in a word everywhere else, and passed on to a child."""

import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import pytest

from minilm import cli, interruption


@pytest.fixture
def sigint():
    """A function that sets a handler of SIGINT, which shells leave ignored where they put tests in the background."""
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield lambda handler: signal.signal(signal.SIGINT, handler)
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("sigint")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_no_loop_notes_is_answered_in_a_word_when_all_is_cleaned_up(number, monkeypatch, capsys):
    cleaned_up, before = [], [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    assert before[1] is signal.SIG_DFL, "else this would end the tests"

    def command(rest):
        try:
            os.kill(os.getpid(), number)
            time.sleep(10)
        finally:
            cleaned_up.append(True)

    monkeypatch.setitem(cli.COMMANDS, "info", command)
    assert cli.main(["info"]) == 128 + number
    assert (cleaned_up, capsys.readouterr().err) == ([True], "minilm: interrupted.\n")
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


def test_another_handler_of_sigterm_stays_and_a_thread_sets_none():
    with interruption.terminable():
        own = signal.getsignal(signal.SIGTERM)
        with interruption.terminable():
            assert signal.getsignal(signal.SIGTERM) is own
        assert signal.getsignal(signal.SIGTERM) is own
    ended = []

    def thread():
        with interruption.terminable():
            ended.append(signal.getsignal(signal.SIGTERM))

    running = threading.Thread(target=thread)
    running.start()
    running.join()
    assert ended == [signal.SIG_DFL]


def interrupted(program, folder, times):
    """Run a child that touches `begun`, be told by SIGTERM so often behind that, and the seconds that it took."""

    def terminate():
        while not (folder / "begun").exists():
            time.sleep(0.05)
        for _ in range(times):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.5)

    telling, start = threading.Thread(target=terminate), time.monotonic()
    telling.start()
    with interruption.terminable(), pytest.raises(interruption.Terminated), contextlib.chdir(folder):
        interruption.run_child([sys.executable, "-c", program], dict(os.environ))
    telling.join()
    return time.monotonic() - start


def test_a_child_is_told_to_end_and_may_clean_up(tmp_path, sigint):
    program = """if True:
        import pathlib, time
        try:
            pathlib.Path("begun").touch()
            time.sleep(60)
        finally:
            time.sleep(0.5)
            pathlib.Path("cleaned up").touch()"""
    assert interrupted(program, tmp_path, times=1) < 30
    assert (tmp_path / "cleaned up").exists()
    killed = [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]
    assert interruption.run_child(killed, dict(os.environ)) == 137


@pytest.mark.parametrize(("handler", "times"), [(signal.SIG_IGN, 1), (signal.default_int_handler, 2)])
def test_a_child_that_does_not_listen_is_ended_all_the_same(handler, times, tmp_path, sigint):
    """One that inherits that SIGINT is ignored is told by SIGTERM; one that ignores it by itself is killed."""
    program = """if True:
        import pathlib, signal, time
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        pathlib.Path("begun").touch()
        time.sleep(60)"""
    sigint(handler)
    assert interrupted(program, tmp_path, times) < 30


class Finalised:
    """What an object is told when it is collected."""

    def __init__(self, told):
        self.told = told

    def __del__(self):
        self.told()


@pytest.mark.usefixtures("sigint")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("where", ["a callback of the collector", "a finaliser", "a callback of a weak reference"])
def test_a_signal_is_not_lost_where_python_forgets_what_is_raised(where, number, monkeypatch, capsys):
    told = []

    def tell(*_):
        if not told:
            told.append(where)
            os.kill(os.getpid(), number)
            sum(range(10))  # a handler runs between two steps of Python's

    def command(rest):
        if where == "a finaliser":
            Finalised(tell)
        elif where == "a callback of a weak reference":
            gone = Finalised(lambda: None)
            weakref.finalize(gone, tell)
            del gone
        else:
            gc.callbacks.append(tell)
            gc.collect()
            gc.callbacks.remove(tell)
        time.sleep(20)

    monkeypatch.setitem(cli.COMMANDS, "info", command)
    start = time.monotonic()
    assert cli.main(["info"]) == 128 + number
    assert (told, time.monotonic() - start < 10, capsys.readouterr().err) == ([where], True, "minilm: interrupted.\n")


@pytest.mark.usefixtures("sigint")
def test_what_would_not_bear_it_is_interrupted_when_it_is_whole():
    whole = []

    def interrupted():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)
        whole.append(True)

    with interruption.terminable(), pytest.raises(interruption.Terminated), interruption.unbroken():
        interrupted()
    assert whole


@pytest.mark.parametrize("module", ["jax", "jaxlib._jax", "jaxlib.gpu_sparse", "minilm.trainer", "minilm.baselines"])
def test_a_command_that_begins_is_ended_in_a_word_whatever_it_loads(module, tmp_path):
    program = """if True:
        import os, signal, sys

        class Telling:
            def find_spec(self, name, path=None, target=None):
                if name == module:
                    os.kill(os.getpid(), signal.SIGTERM)

        module, sys.argv[1:] = sys.argv[1], ["train", "--preset", "quick", "--folder", "run"]
        sys.meta_path.insert(0, Telling())
        from minilm.__main__ import run
        run()"""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, "-c", program, module]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (143, "", "minilm: interrupted.\n")
    assert not (tmp_path / "run").exists()


def test_a_signal_that_python_forgot_does_not_outlive_the_command():
    """It is answered as the command ends, though there is no moment left to be reminded of it."""

    def command():
        with interruption.terminable():
            Finalised(lambda: os.kill(os.getpid(), signal.SIGTERM) or sum(range(10)))

    with pytest.raises(interruption.Terminated):
        command()
    time.sleep(0.1)  # in which nothing more comes


def test_what_a_handler_of_another_raises_where_python_forgets_it_stays_forgotten(sigint, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    heard = []
    monkeypatch.setattr(sys, "unraisablehook", heard.append)
    sigint(interrupt)
    with interruption.terminable():
        Finalised(lambda: os.kill(os.getpid(), signal.SIGINT) or sum(range(10)))
    assert len(heard) == 1


@pytest.mark.usefixtures("sigint")
def test_what_fails_unbroken_is_interrupted_all_the_same():
    def failing():
        with interruption.unbroken():
            os.kill(os.getpid(), signal.SIGINT)
            raise OSError

    with interruption.terminable(), pytest.raises(KeyboardInterrupt):
        failing()
