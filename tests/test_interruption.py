"""Signals: noted by a loop, answered in a word everywhere else, and passed on to a child."""

import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time

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
@pytest.mark.parametrize("where", ["a callback of the collector", "a finaliser"])
def test_a_signal_is_not_lost_where_python_forgets_what_is_raised(where, number, monkeypatch, capsys):
    told = []

    def tell(*_):
        if not told:
            told.append(os.kill(os.getpid(), number))
            sum(range(10))  # a handler runs between two steps of Python's

    def command(rest):
        if where == "a finaliser":
            Finalised(tell)
        else:
            gc.callbacks.append(tell)
            gc.collect()
            gc.callbacks.remove(tell)
        time.sleep(20)

    monkeypatch.setitem(cli.COMMANDS, "info", command)
    start = time.monotonic()
    assert cli.main(["info"]) == 128 + number
    assert (told, time.monotonic() - start < 10, capsys.readouterr().err) == ([None], True, "minilm: interrupted.\n")


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


@pytest.mark.parametrize("seconds", [0.2, 0.3, 0.5, 1.0])
def test_a_signal_ends_a_command_that_begins_in_a_word(seconds, tmp_path):
    """While JAX is loaded and the corpus read, neither of which takes an exception everywhere."""
    command = [sys.executable, "-m", "minilm.cli", "train", "--preset", "quick", "--folder", "run"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "JAX_PLATFORMS": "cpu"}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    time.sleep(seconds)
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) in [(143, "minilm: interrupted.\n"), (-signal.SIGTERM, "")], "or it had not begun"
    assert not (tmp_path / "run").exists()
