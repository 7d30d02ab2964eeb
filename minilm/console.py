"""rich's console for a command that ends when nobody reads it any more, and for a run that goes on.

By itself, rich ends a program then, without a word and with the exit code 1.
"""

import sys

from rich.console import Console

from minilm.unread import nobody_reads


class CommandConsole(Console):
    """A console whose command is told that its reader has left, as by `print`."""

    def on_broken_pipe(self) -> None:
        """Raise what `print` would."""
        raise BrokenPipeError


class RunConsole(Console):
    """A console that its run outlives: when its reader has left, nothing is shown, and all is still done and saved."""

    def on_broken_pipe(self) -> None:
        """Silence."""
        self.quiet = True
        nobody_reads(sys.stdout)
