"""Ctrl-C and SIGTERM as a request that the loop answers when its step is whole."""

import contextlib
import signal
import subprocess
import sys
import threading

_MOMENT = 0.01  # seconds


class Terminated(KeyboardInterrupt):
    """SIGTERM where no loop notes it: what Ctrl-C would have raised."""


def signal_of(interrupt: KeyboardInterrupt) -> int:
    """The signal that raised it."""
    return signal.SIGTERM if isinstance(interrupt, Terminated) else signal.SIGINT


@contextlib.contextmanager
def terminable():
    """While it is entered, SIGTERM raises `Terminated` and SIGINT `KeyboardInterrupt`, wherever the program is.

    So what was begun is cleaned up, and a word said; by itself SIGTERM ends a process on the spot. Where Python calls
    back by itself, at a collection of garbage (JAX has it collect its own then) or as an object goes, it prints what is
    raised and forgets it. That is heard of here, and raised again a moment later. A handler that another has set stays.
    """
    usual = {
        signal.SIGTERM: (signal.SIG_DFL, Terminated),
        signal.SIGINT: (signal.default_int_handler, KeyboardInterrupt),
    }
    free = threading.current_thread() is threading.main_thread()
    ours = {number: usual[number] for number in usual if free and signal.getsignal(number) is usual[number][0]}
    main, hook, forgotten, reminders = threading.get_ident(), sys.unraisablehook, [], []

    def interrupt(number, _frame):
        raise ours[number][1]

    def hear(unraisable):
        raised = unraisable.exc_value
        if not isinstance(raised, KeyboardInterrupt) or signal_of(raised) not in ours:
            return hook(unraisable)
        forgotten.append(signal_of(raised))
        reminders.append(threading.Timer(_MOMENT, remind))
        reminders[-1].start()

    def remind():
        signal.pthread_kill(main, forgotten.pop())  # which ends a sleep too

    for number in ours:
        signal.signal(number, interrupt)
    if ours:
        sys.unraisablehook = hear
    try:
        yield
    finally:
        for reminder in reminders:
            reminder.cancel()
            reminder.join()
        for number, (before, _) in ours.items():
            signal.signal(number, before)
        sys.unraisablehook = hook
    if forgotten:
        raise ours[forgotten.pop()][1]


@contextlib.contextmanager
def unbroken():
    """What would not bear to be interrupted, as the import of compiled code: the signal waits until it is whole."""
    interruption = Interruption()
    try:
        with interruption:
            yield
    finally:
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
