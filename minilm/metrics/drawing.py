"""Pictures of how well labels are predicted, and of where a model looked."""

from collections.abc import Sequence
from unicodedata import east_asian_width

import numpy as np


def draw_confusion(axes, matrix: np.ndarray, names: Sequence[str]) -> None:
    """Draw a confusion matrix with its counts; the shade of each is its share of the row, of all that are so.

    Args:
      axes: of matplotlib.
      matrix: `(c, c)`, rows the truth and columns what was predicted, of `minilm.metrics.classification`.
      names: of the c classes.
    Raises:
      ValueError: there are not as many names as rows and columns.
    """
    if np.shape(matrix) != (len(names), len(names)):
        raise ValueError(
            f"expected a row and a column for each of {len(names)} classes, got a matrix of {np.shape(matrix)}: name "
            "all of its classes, in their order."
        )
    shares = matrix / np.maximum(1, matrix.sum(1, keepdims=True))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (i, j), count in np.ndenumerate(matrix):
        axes.text(j, i, f"{count:,}", ha="center", va="center", color="white" if shares[i, j] > 0.5 else "black")
    axes.set(xlabel="taken for", ylabel="is")
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)


def draw_alignment(axes, weights: np.ndarray, source: Sequence[str], target: Sequence[str]) -> None:
    """Draw where a model looked before it wrote each token: dark where the weight is.

    Args:
      axes: of matplotlib.
      weights: `(t, s)`, a row for each token that was written; none is below 0 or above 1.
      source: the s tokens that were read, from left to right.
      target: the t tokens that were written, from above to below.
    Raises:
      ValueError: there is not a weight for each token of the target on each of the source.
    """
    if np.shape(weights) != (len(target), len(source)):
        raise ValueError(
            f"expected a row for each of {len(target)} tokens written and a column for each of {len(source)} read, got "
            f"weights of {np.shape(weights)}: cut the padding off."
        )
    axes.imshow(weights, cmap="Greys", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(source)), source)
    axes.set_yticks(range(len(target)), target)


def draw_weights(axes, tokens: Sequence[str], weights: np.ndarray, title: str = "") -> None:
    """Draw tokens in lines, each on a ground as dark as its weight is large.

    Args:
      axes: of matplotlib.
      tokens: t words, or characters of Chinese, each of which takes the room of two letters.
      weights: `(t,)`, none below 0 and not all of them 0.
      title: what stands above.
    Raises:
      ValueError: there is not a weight for each token.
    """
    if np.shape(weights) != (len(tokens),):
        raise ValueError(f"expected a weight for each of {len(tokens)} tokens, got weights of {np.shape(weights)}.")
    x, y = 0.0, 0.0
    for token, weight in zip(tokens, weights / np.max(weights), strict=True):
        wide = [east_asian_width(letter) in "WF" for letter in token]
        width = len(token) + sum(wide)
        if x + width > 110:
            x, y = 0.0, y - 1
        ground = {"facecolor": (1.0, 0.5, 0.0, 0.9 * weight), "edgecolor": "none", "pad": 1.5}
        family = {} if any(wide) else {"family": "monospace"}  # which has no letters of Chinese
        axes.text(x, y, token, fontsize=8, bbox=ground, **family)
        x += width + 2
    axes.set(xlim=(0, 112), ylim=(y - 0.5, 1))
    axes.set_title(title, loc="left", fontsize=9)
    axes.axis("off")
