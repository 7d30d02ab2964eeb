"""Which attention should I use, what does it cost, and what can it not do?

    minilm bench attention list                                     what there is, and what is unavailable here
    minilm bench attention ops --cores dense,blockwise --lengths 512..4k
    minilm bench attention ops --variants mha,gqa:groups=2,mamba2 --width 256 --heads 4 --out mine.jsonl
    minilm bench attention ops --variants my_module:my_attention    one of your own, from the current folder
    minilm bench attention decode --variants mha,mla --contexts 256..8k
    minilm bench attention quality                                  what each variant can recall
    minilm bench attention report mine.jsonl --format html --out mine.html
    minilm bench attention compare before.jsonl after.jsonl --fail-if-slower 10%

`python -m benchmarks.attention` is the same command; COMMAND --help explains each. No time is taken of a variant that
was not found to be right first.
"""

import importlib
import sys

import benchmarks.measure as measure
from benchmarks.attention import options, record
from minilm.flags import UsageError, nearest
from minilm.unread import UNREAD, nobody_reads, written_out

COMMANDS = {  # each a module here, with a main
    "ops": "what attention over whole sequences costs, forward and with backward, as they grow",
    "decode": "what the next token costs, as the context before it grows",
    "quality": "what each variant can recall, at which size of its state",
    "list": "every variant, core and backend, and why one is unavailable here",
    "report": "tables, CSV, Markdown, plots or one HTML page of what was measured",
    "compare": "two measurements row by row; fails where the second is slower",
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; its exit code, or 2 for what cannot be understood."""
    try:
        with written_out():
            return _run(sys.argv[1:] if arguments is None else arguments)
    except BrokenPipeError:
        nobody_reads(sys.stdout)
        return UNREAD
    except (UsageError, OSError) as error:
        if isinstance(error, OSError) and error.strerror:  # as the system says it, a number first
            error = f"{error.filename or 'A file that is needed'} cannot be used: {error.strerror}."
        print(f"minilm bench attention: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _run(arguments):
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(__doc__)
        print("\n".join(f"{name:10}{about}" for name, about in COMMANDS.items()))
        return 0 if arguments else 2
    name, *rest = arguments
    if name not in COMMANDS:
        raise UsageError(f"There is no command {name!r}{nearest(name, COMMANDS)}; there are {', '.join(COMMANDS)}.")
    if name != "quality":  # which chooses its core, or a device, by flags of its own
        _prepare(pinned=options.ACCELERATOR not in rest)
    try:
        return importlib.import_module(f"benchmarks.attention.{name}").main(rest)
    except record.UnwrittenError as error:
        from benchmarks.attention import views

        print(f"{views.table(error.rows)}\n{views.summary(error.rows)}")
        raise


def _prepare(pinned):
    """What must be settled before JAX loads: one thread, the allocator that minilm itself uses, the current folder."""
    from minilm import allocator

    if pinned:
        measure.pin()
    allocator.tune()
    if "" not in sys.path:
        sys.path.append("")  # where variants of one's own are


if __name__ == "__main__":
    sys.exit(main())
