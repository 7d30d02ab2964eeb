"""Kneser-Ney by arrays beside NLTK's by dictionaries: how fast each counts a text, and how fast each scores another.

    python -m benchmarks.ngram [--tokens 50000] [--scored 100]

Trigrams of the default corpus in 2,048 tokens, one discount of 0.75 as in NLTK (whose unigrams have none). One thread,
CPU time, in turn. Both must give the same perplexity to 1e-6. NLTK is asked for few tokens: for each it looks through
all that it counted.
"""

import argparse
import tempfile

from benchmarks import measure

measure.pin()

import numpy as np  # noqa: E402
from nltk.lm import KneserNeyInterpolated, Vocabulary  # noqa: E402
from nltk.util import everygrams  # noqa: E402

from minilm.config import DataConfig  # noqa: E402
from minilm.data.preparation import prepare  # noqa: E402
from minilm.models import ngram  # noqa: E402

ORDER, DISCOUNT, V = 3, 0.75, DataConfig().vocab_size


def count_ours(tokens):
    return ngram.kneser_ney(tokens, ORDER, V, (0.0, *[DISCOUNT] * (ORDER - 1)))


def count_theirs(words):
    theirs = KneserNeyInterpolated(ORDER, discount=DISCOUNT)
    theirs.fit([everygrams(words, max_len=ORDER)], Vocabulary(map(str, range(V)), unk_cutoff=1))
    return theirs


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=50_000, help="to count")
    parser.add_argument("--scored", type=int, default=100, help="held-out tokens that both score")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        train, held_out = (np.array(part.tokens) for part in prepare(DataConfig(), folder))
    train, asked = train[: arguments.tokens], held_out[: arguments.scored]
    words = list(map(str, train))
    grams = [tuple(map(str, asked[max(0, i - ORDER + 1) : i + 1])) for i in range(len(asked))]
    ours, theirs = count_ours(train), count_theirs(words)
    perplexities = {"minilm": ngram.perplexity(ours, asked), "nltk": theirs.perplexity(grams)}
    if not np.isclose(perplexities["minilm"], perplexities["nltk"], rtol=1e-6):
        raise SystemExit(f"No time is told of models that differ: their perplexities are {perplexities}.")
    counting = {"minilm": lambda: count_ours(train), "nltk": lambda: count_theirs(words)}
    scoring = {"minilm": lambda: ngram.perplexity(ours, asked), "nltk": lambda: theirs.perplexity(grams)}
    rows = []
    for what, candidates, n in (("count", counting, len(train)), ("score", scoring, len(asked))):
        times = measure.compare(candidates, rounds=7, warmup=1, seconds=120)
        for name in candidates:
            row = {"what": what, "candidate": name, "tokens": n, "tokens/s": round(n / measure.median(times[name]))}
            row |= {"speed over NLTK": round(measure.speed(times, name, "nltk"), 2), "perplexity": perplexities[name]}
            rows.append(row)
            print(*(f"{key}: {value}" for key, value in row.items()), sep="   ", flush=True)
    measure.write("ngram", rows, f"python -m benchmarks.ngram --tokens {arguments.tokens} --scored {arguments.scored}")


if __name__ == "__main__":
    main()
