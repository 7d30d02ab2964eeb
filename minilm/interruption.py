"""Ctrl-C and SIGTERM as a request that the loop answers when its step is whole."""

import contextlib
import gc
import os
import signal
import subprocess
import threading

_LATER = 0.01  # seconds


class Terminated(KeyboardInterrupt):
    """SIGTERM where no loop notes it: what Ctrl-C would have raised."""


def signal_of(interrupt: KeyboardInterrupt) -> int:
    """The signal that raised it."""
    return signal.SIGTERM if isinstance(interrupt, Terminated) else signal.SIGINT


@contextlib.contextmanager
def terminable():
    """While it is entered, SIGTERM raises `Terminated` and SIGINT `KeyboardInterrupt`, wherever the program is.

    So what was begun is cleaned up, and a word said; by itself SIGTERM ends a process on the spot. Python prints and
    forgets what is raised where it calls back by itself, at a collection of garbage (JAX has it collect its own then)
    or in a finaliser. There the signal is put off until that is over. A handler that another has set stays.
    """
    usual = {
        signal.SIGTERM: (signal.SIG_DFL, Terminated),
        signal.SIGINT: (signal.default_int_handler, KeyboardInterrupt),
    }
    free = threading.current_thread() is threading.main_thread()
    ours = {number: usual[number] for number in usual if free and signal.getsignal(number) is usual[number][0]}

    def interrupt(number, frame):
        if _called_back(frame):
            threading.Timer(_LATER, os.kill, (os.getpid(), number)).start()
        else:
            raise ours[number][1]

    for number in ours:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, (before, _) in ours.items():
            signal.signal(number, before)


def _called_back(frame):
    collectors = {getattr(callback, "__code__", None) for callback in gc.callbacks}
    while frame is not None:
        if frame.f_code in collectors or frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False


@contextlib.contextmanager
def unbroken():
    """What would not bear to be interrupted, as the import of compiled code: the signal waits until it is whole."""
    with Interruption() as interruption:
        yield
    if interruption.signal:
        signal.raise_signal(interruption.signal)


def run_child(command: list[str], environment: dict[str, str]) -> int:
    """A program of its own, to its end; its exit code, as shells count it.

    What interrupts this process interrupts the child, which may end what it began; a second time, it kills it. It is
    told by SIGINT, unless a terminal has: Ctrl-C goes to all that it runs. A child of a process that ignores SIGINT, as
    shells make those that they put in the background, ignores it too, and is told by SIGTERM.
    """
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    process = subprocess.Popen(command, env=environment)
    try:
        code = process.wait()
    except KeyboardInterrupt as interrupt:
        if signal_of(interrupt) != signal.SIGINT:
            process.send_signal(signal.SIGTERM if ignored else signal.SIGINT)
        try:
            process.wait()
        except KeyboardInterrupt:  # a second time
            process.kill()
            process.wait()
        raise
    return code if code >= 0 else 128 - code


class Interruption:
    """While it is entered, SIGINT and SIGTERM are noted in `signal` instead of ending the program.

    A second signal ends the program as it always would: after the first, the handlers that were there before are back.
    Outside the main thread, where Python takes no signals, nothing is noted.
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self):
        self.signal: int | None = None
        self._before = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in self._SIGNALS}
        return self

    def __exit__(self, *_):
        self._restore()

    def _note(self, number, _frame):
        self.signal = number
        self._restore()

    def _restore(self):
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
