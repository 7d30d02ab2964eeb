"""What others say in many lines, said in one: their errors stand inside of our sentences."""


def one_line(text: object, most: int = 400) -> str:
    r"""All of a text on one line, every gap one blank; what is beyond `most` characters is left out.

    >>> one_line("Shapes differ:\n  (2,)\n  (3,)"), one_line("and so on", most=9), one_line("and so on " * 9, most=12)
    ('Shapes differ: (2,) (3,)', 'and so on', 'and so on …')
    >>> len(one_line("?" * 1000))
    400
    """
    words = " ".join(str(text).split())
    return words if len(words) <= most else f"{words[: most - 2].rstrip()} …"


def said(error: BaseException) -> str:
    """The kind of an error and what it says, on one line and without the last stop.

    >>> said(KeyError("w_q")), said(OSError("Gone.")), said(MemoryError())
    ("KeyError: 'w_q'", 'OSError: Gone', 'MemoryError')
    """
    return one_line(f"{type(error).__name__}: {error}").rstrip(".:")
