"""Is word2vec in JAX as fast as gensim's in C, and are its vectors as good?

    python -m benchmarks.word2vec [--seeds 2] [--epochs 5] [--only CBOW]

Film reviews, 5.9 million words, windows of 5, five negatives, 100 numbers a word, subsampling at 1e-3: the same words
and settings for both. One thread, CPU time, trained in turn; words are those of the text, thinned out or not. Quality
is Spearman's correlation with WordSim-353, and the share of Mikolov's analogies answered right.

CBOW starts at three times gensim's learning rate, for gensim leaves out the mean's 1/|N| from its gradient, and so
moves further. With the gradient as released, and gensim's rate, it is a variant of its own here.

By negative sampling the correlation is 0.04 above gensim's. Skip-gram's is so because its vectors have less in common:
gensim draws words for every pair; a step here tells the pairs of 256 words from the same 32, at vectors from before the
step. The mean of all unit vectors is 0.50 long beside 0.72, and without it the correlation is 0.01 below gensim's; with
32 words a step, a variant too, it is 0.60 long and the distance within 0.02. CBOW's is so because its gradient is the
right one: with the released one it is within 0.02 of gensim's. By hierarchical softmax both are within 0.03, and about
half as fast: here every word's way through the tree is as long as the longest.
"""

import argparse
import statistics
import time

from benchmarks import measure

measure.pin()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from minilm.data import texts, windows  # noqa: E402
from minilm.data.fetch import fetch  # noqa: E402
from minilm.models import vectors, word2vec  # noqa: E402


def cbow_as_released(params, batch):
    """CBOW, but every neighbour moves by the whole gradient of their mean, as in word2vec.c and gensim."""
    near = batch.near.astype(params.embedding.dtype)
    count, total = near.sum(-1, keepdims=True), jnp.einsum("bts,bsd->btd", near, params.embedding[batch.context])
    h = total + jax.lax.stop_gradient(total / jnp.maximum(count, 1) - total)
    b, t, d = h.shape
    itself = jnp.eye(t, dtype=bool) & (count > 0)
    alone = batch._replace(context=jnp.arange(b * t).reshape(b, t), near=itself)
    return word2vec.cbow(params._replace(embedding=h.reshape(b * t, d)), alone)


TREE = {"negatives": 0, "stretch": 8, "stretches": 32}
VARIANTS = {
    "skip-gram, negative sampling": (word2vec.skip_gram, {}, 0.025, {"sg": 1, "negative": 5}),
    "skip-gram, 32 words a step": (word2vec.skip_gram, {"stretches": 1}, 0.025, {"sg": 1, "negative": 5}),
    "CBOW, negative sampling": (word2vec.cbow, {}, 0.15, {"sg": 0, "negative": 5}),
    "CBOW as released, negative sampling": (cbow_as_released, {}, 0.05, {"sg": 0, "negative": 5}),
    "skip-gram, hierarchical softmax": (word2vec.skip_gram, TREE, 0.025, {"sg": 1, "hs": 1, "negative": 0}),
    "CBOW, hierarchical softmax": (word2vec.cbow, TREE, 0.15, {"sg": 0, "hs": 1, "negative": 0}),
}
THEIR_RATES = {"sg": 0.025, "cbow": 0.05}


def corpus():
    """The reviews as lists of words, without those that come less than five times, and the same in numbers."""
    reviews = texts.reviews()
    names, text = windows.number(reviews)
    known = set(names)
    return names, text, [[word for word in review if word in known] for review in reviews]


def train_ours(names, text, loss, options, rate, epochs, seed):
    config = word2vec.Config(len(names), epochs=epochs, learning_rate=rate, **options)
    return np.asarray(word2vec.train(loss, text, config, seed).embedding)


def train_theirs(names, reviews, options, epochs, seed):
    from gensim.models import Word2Vec

    rate = THEIR_RATES["sg" if options["sg"] else "cbow"]
    model = Word2Vec(
        vector_size=100, window=5, sample=1e-3, min_count=1, workers=1, seed=seed + 1, alpha=rate, **options
    )
    model.build_vocab(reviews)
    start = time.process_time()
    model.train(reviews, total_examples=len(reviews), epochs=epochs)
    return model.wv[names], time.process_time() - start


def quality(names, rows, lists):
    """Spearman's correlation, the same without the vectors' mean, what all have in common, and analogies."""
    v, similarities = vectors.make(names, rows), vectors.read_similarities(lists / "wordsim353.tsv")
    return (
        vectors.similarity_correlation(v, similarities).value,
        vectors.similarity_correlation(vectors.make(names, rows - rows.mean(0)), similarities).value,
        float(np.linalg.norm(v.unit.mean(0))),
        vectors.analogy_accuracy(v, vectors.read_analogies(lists / "questions-words.txt")).value,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--only", default="", help="the variants whose name holds this; of the others the rows stay")
    arguments = parser.parse_args()
    rows = []
    command = f"python -m benchmarks.word2vec --seeds {arguments.seeds} --epochs {arguments.epochs}"
    if not any(arguments.only in name for name in VARIANTS):
        parser.error(f"No variant's name holds {arguments.only!r}: they are {'; '.join(VARIANTS)}.")
    if arguments.only:
        here = measure.environment()["cpu"]
        before = next((one for one in measure.records("word2vec") if one["environment"]["cpu"] == here), None)
        if before is None:
            parser.error("There are no other rows of this processor to stay: measure all.")
        if before["command"] != command:
            parser.error(f"The other rows were made by `{before['command']}`: give the same seeds and epochs, or all.")
        rows = [row for row in before["rows"] if arguments.only not in row["variant"]]
    names, text, reviews = corpus()
    lists = fetch("word-similarity")
    n_words = arguments.epochs * len(text.tokens)
    for name, (loss, options, rate, their_options) in VARIANTS.items():
        if arguments.only not in name:
            continue
        found = {"minilm": [], "gensim": []}
        few = windows.Text(text.tokens[:2000], text.document[:2000], text.counts)
        # This one compiles; gensim was compiled by others.
        train_ours(names, few, loss, options, rate, 1, 0)
        for seed in range(arguments.seeds):
            start = time.process_time()
            ours = train_ours(names, text, loss, options, rate, arguments.epochs, seed)
            found["minilm"].append((time.process_time() - start, *quality(names, ours, lists)))
            theirs, seconds = train_theirs(names, reviews, their_options, arguments.epochs, seed)
            found["gensim"].append((seconds, *quality(names, theirs, lists)))
        speed = statistics.median(b[0] / a[0] for a, b in zip(found["minilm"], found["gensim"], strict=True))
        for candidate, runs in found.items():
            seconds, rho, centred, common, analogies = zip(*runs, strict=True)
            rows.append(
                {
                    "variant": name,
                    "candidate": candidate,
                    "epochs": arguments.epochs,
                    "words/s": round(n_words / statistics.median(seconds)),
                    "speed over gensim": round(speed, 2) if candidate == "minilm" else 1.0,
                    "WordSim-353, seeds": [round(x, 3) for x in rho],
                    "WordSim-353": round(statistics.mean(rho), 3),
                    "without the mean vector": round(statistics.mean(centred), 3),
                    "length of the mean direction": round(statistics.mean(common), 2),
                    "analogies": round(statistics.mean(analogies), 3),
                }
            )
            print(*(f"{key}: {value}" for key, value in rows[-1].items()), sep="   ", flush=True)
        # After each variant, for all of them take half an hour.
        measure.write("word2vec", sorted(rows, key=lambda row: [*VARIANTS].index(row["variant"])), command)


if __name__ == "__main__":
    main()
