"""Which attention should I use, and what can it not do?

    minilm bench attention quality          what each variant can recall, beside the size of its state

`python -m benchmarks.attention` is the same command; COMMAND --help explains each.
"""

import importlib
import sys

from minilm.flags import nearest

COMMANDS = {"quality": "what each variant can recall, at which size of its state"}  # each a module here, with a main


def main(arguments: list[str] | None = None) -> int:
    """Run one command; its exit code, or 2 for what cannot be understood."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(__doc__)
        print("\n".join(f"{name:10}{about}" for name, about in COMMANDS.items()))
        return 0 if arguments else 2
    name, *rest = arguments
    if name not in COMMANDS:
        known = f"There is no command {name!r}{nearest(name, COMMANDS)}; there are {', '.join(COMMANDS)}."
        print(f"minilm bench attention: {known}", file=sys.stderr)
        return 2
    return importlib.import_module(f"benchmarks.attention.{name}").main(rest)


if __name__ == "__main__":
    sys.exit(main())
