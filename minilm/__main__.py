"""The program: `minilm`, or `python -m minilm`."""

import os
import sys

from minilm import cli


def run() -> None:
    """End with the exit code of the command line."""
    code = cli.main()
    if code <= 128:
        sys.exit(code)
    # Interrupted. XLA may have threads at a compilation, and crashes where Python takes itself down around them.
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.flush()
    os._exit(code)


if __name__ == "__main__":
    run()
