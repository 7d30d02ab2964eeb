"""How the command line's words become numbers and lists; what cannot be understood is answered in a sentence."""

import argparse
import math
import os
import re
import shlex
import tempfile
from pathlib import Path

from minilm.flags import UsageError, nearest

DTYPES = {"f32": "float32", "bf16": "bfloat16"}
MODES = ("fwd", "fwdbwd", "prefill")
LONGEST = 2**20
ACCELERATOR = "--accelerator"


class Parser(argparse.ArgumentParser):
    """argparse, whose complaints are sentences that name what was perhaps meant."""

    def __init__(self, command: str, text: str):
        super().__init__(
            prog=f"minilm bench attention {command}",
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def parse_args(self, arguments):
        """The options, with the whole line as `command`; or a `UsageError`."""
        options, unknown = self.parse_known_args(arguments)
        if unknown:
            flags = [flag for action in self._actions for flag in action.option_strings]
            raise UsageError(
                f"{self.prog} does not know what to do with {unknown[0]!r}{nearest(unknown[0], flags)}; "
                "--help shows what it takes."
            )
        places = [i for i, word in enumerate(arguments) if word == "--out"]  # which is no part of what is measured
        left = {i + next_to for i in places for next_to in (0, 1)}
        told = [word for i, word in enumerate(arguments) if i not in left and not word.startswith("--out=")]
        options.command = f"{self.prog} {shlex.join(told)}".strip()
        return options

    def error(self, message):
        """Argparse's own complaint; its first words name the option."""
        message = re.sub(r"^argument (\S+?)(/\S+)?:", r"\1:", message)
        raise UsageError(f"{message.rstrip('.')}. ({self.prog} --help shows what it takes.)")


def add_device(parser: Parser) -> None:
    """The option that chooses the device, and with it how times are taken."""
    words = "of the device that JAX finds, in the time that it works, not of one CPU core in CPU time"
    parser.add_argument(ACCELERATOR, action="store_true", help=words)


def lengths(text: str) -> list[int]:
    """`512,1k,2k`, or `256..32k` for every doubling between.

    >>> lengths("512,1k"), lengths("256..2k")
    ([512, 1024], [256, 512, 1024, 2048])
    """
    found = []
    for part in text.split(","):
        first, dots, last = part.partition("..")
        found.append(_length(first))
        if dots and _length(last) < found[-1]:
            raise argparse.ArgumentTypeError(f"{part!r} runs backwards: give the shorter length first")
        while dots and 2 * found[-1] <= _length(last):
            found.append(2 * found[-1])
    return sorted(set(found))


def size(text: str) -> int:
    """One length."""
    return _length(text)


def dtypes(text: str) -> list[str]:
    """`f32,bf16` as JAX calls them."""
    return [DTYPES[name] for name in among(text, DTYPES, "dtype")]


def modes(text: str) -> list[str]:
    """`fwd,fwdbwd,prefill`."""
    return among(text, MODES, "mode")


def among(text: str, known, what: str) -> list[str]:
    """Words of those that are known, behind commas."""
    chosen = [part for part in text.split(",") if part]
    for name in chosen:
        if name not in known:
            raise argparse.ArgumentTypeError(
                f"there is no {what} {name!r}{nearest(name, known)}; there are {', '.join(known)}"
            )
    if not chosen:
        raise argparse.ArgumentTypeError(f"give a {what}, of {', '.join(known)}")
    return list(dict.fromkeys(chosen))


def one_of(known, what: str):
    """A type of option: one word of those."""

    def chosen(text):
        found = among(text, known, what)
        if len(found) != 1:
            raise argparse.ArgumentTypeError(f"give one {what}, of {', '.join(known)}")
        return found[0]

    return chosen


def names(text: str) -> list[str]:
    """Variants with their options, whose commas belong to them.

    >>> names("mha,nsa:size=32,n=2,window:width=16")
    ['mha', 'nsa:size=32,n=2', 'window:width=16']
    """
    found = []
    for part in filter(None, text.split(",")):
        if found and ":" not in part and "=" in part:
            found[-1] += f",{part}"
        else:
            found.append(part)
    return found


def seconds(text: str) -> float:
    """A positive number of seconds, with or without the letter s."""
    return _positive(text, text.removesuffix("s"), "a number of seconds, such as 60 or 2.5s")


def gigabytes(text: str) -> float:
    """A positive number of gigabytes."""
    return _positive(text, text.upper().removesuffix("GB"), "a number of gigabytes, such as 8")


def percent(text: str) -> float:
    """`10%` as 0.1.

    >>> percent("10%")
    0.1
    """
    return _positive(text, text.removesuffix("%"), "a percentage, such as 10%") / 100


def positive(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or not 0 < int(text) < 2**31:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 to 2147483647")
    return int(text)


def file(text: str) -> str:
    """Where something is to be written: that it may be is asked before anything is measured."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is a folder: name a file")
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    if there != path and not there.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} cannot be written: {there} is no folder")
    if not os.access(there, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text!r} cannot be written: {there} may only be read")
    try:
        if there.is_dir():  # in which some, as /proc, let nobody make a file and do not say so
            tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} cannot be written: {there} takes no file ({error.strerror})"
        ) from None
    return text


def whole(text: str) -> int:
    """A whole number, such as a seed."""
    if not text.isdecimal() or int(text) >= 2**31:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 to 2147483647")
    return int(text)


def rate(text: str) -> float:
    """A positive number, such as a learning rate."""
    return _positive(text, text, "a number above 0")


def head_width(width: int, heads: int) -> int:
    """How wide each head is, or a `UsageError` where heads cannot share the width."""
    if width % heads:
        raise UsageError(f"{heads} heads cannot share a width of {width}: choose a number of heads that divides it.")
    return width // heads


def _length(text):
    found = re.fullmatch(r"(\d+)(k?)", text.strip().lower())
    if not found or not 0 < (length := int(found[1]) * (1024 if found[2] else 1)) <= LONGEST:
        raise argparse.ArgumentTypeError(f"{text!r} is no length: give numbers up to {LONGEST}, as 512, 1k or 256..32k")
    return length


def _positive(text, number, wanted):
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
    return value
