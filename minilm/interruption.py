"""Ctrl-C and SIGTERM as a request that the loop answers when its step is whole."""

import signal
import threading


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
