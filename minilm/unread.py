"""Output whose reader leaves before its end, as `| head` does, or that finds no room at its end."""

import contextlib
import os
import sys

UNREAD = 141  # 128 + 13, the exit code that shells give to what SIGPIPE has ended


@contextlib.contextmanager
def written_out():
    """Around a command: what it printed leaves the buffer here, where a full disk or a reader that left is an error.

    Left to the interpreter's own exit, either would be a traceback. What ends by SystemExit, as `--help` does, is
    written out too.
    """
    try:
        yield
    finally:
        try:
            if sys.stdout is not None:  # it is where standard output is closed, `>&-`
                sys.stdout.flush()
        except OSError:
            nobody_reads(sys.stdout)
            raise


def nobody_reads(stream) -> None:
    """What is still to be written to a stream goes nowhere, and raises no more."""
    with contextlib.suppress(OSError, AttributeError):  # a stream in memory has no descriptor
        descriptor = stream.fileno()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, descriptor)
        os.close(nowhere)
