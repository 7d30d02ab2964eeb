"""Records of functions, made once for each setting."""

import functools
import inspect
from collections.abc import Callable


def one_record(make: Callable) -> Callable:
    """The function, whose result is kept: one setting gives one record, however it is written.

    `jax.jit` knows a record again by its functions, so that one made anew would compile anew.

    >>> @one_record
    ... def scaled(by: float = 2.0):
    ...     return lambda x: by * x
    >>> scaled() is scaled(2.0) is scaled(by=2.0), scaled() is scaled(3.0)
    (True, False)
    """
    signature, kept = inspect.signature(make), functools.cache(make)

    @functools.wraps(make)
    def made(*args, **kwargs):
        setting = signature.bind(*args, **kwargs)
        setting.apply_defaults()
        return kept(*setting.args, **setting.kwargs)

    return made
