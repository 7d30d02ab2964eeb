"""RetNet's decays."""

import math


def retention_decays(g):
    """log(1 - 1 / 32), log(1 - 1 / 64), ..."""
    return [math.log((2 ** (5 + h) - 1) / 2 ** (5 + h)) for h in range(g)]
