"""Neighbours, analogies and judgements against their definitions and gensim's; files that come back as they were."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm.models import vectors
from tests.strategies import seeds
from tests.tolerances import FORMULA, LAYER, assert_close

WORDS = ["the", "of", "a", "Zürich", "北京", "new_york", "x"]
cheap = settings(max_examples=30)  # nothing is compiled
each_score = pytest.mark.parametrize("by_sum", [True, False])


def some(seed, n=7, d=3):
    rows = np.random.default_rng(seed).standard_normal((n, d)) * 3
    return vectors.make(WORDS[:n] if n <= 7 else list(map(str, range(n))), rows), rows


def cosine(a, b):
    return float(np.dot(a, b)) / (np.linalg.norm(a) * np.linalg.norm(b))


@cheap
@given(seeds, st.integers(0, 6), st.integers(1, 9))
def test_the_nearest_are_those_of_largest_cosine_and_never_the_word_itself(seed, i, count):
    v, rows = some(seed)
    expected = sorted(((cosine(rows[i], rows[j]), WORDS[j]) for j in range(7) if j != i), reverse=True)[:count]
    found = vectors.nearest(v, WORDS[i], count)
    assert [word for word, _ in found] == [word for _, word in expected]
    assert_close(np.array([c for _, c in found]), np.array([c for c, _ in expected]), FORMULA)
    assert vectors.nearest(v, 7 * rows[i], 1)[0][0] == WORDS[i]


@each_score
@cheap
@given(seeds, st.permutations(range(7)))
def test_an_analogy_is_the_best_of_the_words_not_asked(by_sum, seed, order):
    v, rows = some(seed)
    a, b, c, *others = order

    def score(d):
        to_a, to_b, to_c = (cosine(rows[d], rows[w]) for w in (a, b, c))
        return to_b - to_a + to_c if by_sum else (1 + to_b) * (1 + to_c) / 4 / ((1 + to_a) / 2 + 0.001)

    scores = vectors.scores_by_sum if by_sum else vectors.scores_by_product
    expected = [WORDS[d] for d in sorted(others, key=score, reverse=True)]
    assert vectors.analogy(v, WORDS[a], WORDS[b], WORDS[c], 4, scores) == expected
    questions = [[WORDS[a], WORDS[b], WORDS[c], WORDS[d]] for d in others] + [["the", "of", "a", "unknown"]]
    assert vectors.analogy_accuracy(v, questions, scores) == (0.25, 4, 5)


@cheap
@given(seeds, st.integers(3, 25))
def test_the_correlation_is_scipys_spearman_with_ties(seed, n):
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(seed)
    v, _ = some(seed, 9)
    i, j, judged = rng.integers(0, 9, n), rng.integers(0, 9, n), rng.integers(0, 4, n).astype(float)
    judged[:2] = 0, 3
    i[:3], j[:3] = 0, (1, 2, 3)
    pairs = [(str(a), str(b), x) for a, b, x in zip(i, j, judged, strict=True)]
    theirs = stats.spearmanr(np.sum(v.unit[i] * v.unit[j], 1), judged).statistic
    assert_close(vectors.similarity_correlation(v, [*pairs, ("0", "unknown", 1.0)]).value, theirs, FORMULA)


def test_unknown_words_are_counted_out_and_named():
    v, _ = some(0)
    with pytest.raises(KeyError, match="'king' has no vector; it was not among the 7 words"):
        vectors.nearest(v, "king")
    with pytest.raises(ValueError, match="Of 1 pairs 0 are known"):
        vectors.similarity_correlation(v, [("king", "the", 1.0)])
    assert vectors.analogy_accuracy(v, [["king", "the", "of", "a"]]) == (0, 0, 1)


def test_words_and_rows_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="2 words needs one row"):
        vectors.make(["a", "b"], np.ones((3, 2)))
    with pytest.raises(ValueError, match="1 words stand twice"):
        vectors.make(["a", "a"], np.ones((2, 2)))
    assert (vectors.make(["a"], np.zeros((1, 2))).unit == 0).all()


@cheap
@given(seeds)
def test_a_file_gives_back_every_bit(tmp_path_factory, seed):
    path = tmp_path_factory.mktemp("vectors") / "v.txt"
    rows = np.random.default_rng(seed).standard_normal((7, 3)).astype(np.float32)
    vectors.save(path, WORDS, rows)
    words, read = vectors.load(path)
    assert words == WORDS
    assert read.dtype == np.float32
    assert (read == rows).all()
    path.write_text("".join(path.read_text("utf-8").splitlines(keepends=True)[1:]), "utf-8")  # as GloVe writes it
    words, read = vectors.load(path)
    assert words == WORDS
    assert (read == rows).all()


def test_files_that_are_not_whole_are_refused(tmp_path):
    path = tmp_path / "v.txt"
    path.write_text("3 2\na 1 2\nb 3 4\n")
    with pytest.raises(ValueError, match="promises 3 words and holds 2"):
        vectors.load(path)
    path.write_text("2 2\na 1 2\nb 3\n")
    with pytest.raises(ValueError, match="1 numbers where 2 were expected, for word 2"):
        vectors.load(path)
    with pytest.raises(ValueError, match="'new york' cannot be a word"):
        vectors.save(path, ["new york"], np.ones((1, 2)))


def test_the_lists_are_read_in_lower_case_without_their_comments(tmp_path):
    path = tmp_path / "list"
    path.write_text(": capitals\nAthens Greece Oslo Norway\n\n: family\nboy girl he she\n")
    assert vectors.read_analogies(path) == [["athens", "greece", "oslo", "norway"], ["boy", "girl", "he", "she"]]
    path.write_text("# Word 1\tWord 2\tmean\nLove\tsex\t6.77\nFBI\tinvestigation\t8.31\n")
    assert vectors.read_similarities(path) == [("love", "sex", 6.77), ("fbi", "investigation", 8.31)]


@pytest.mark.filterwarnings("ignore:Call to deprecated .init_sims")  # by gensim itself
@settings(max_examples=3)
@given(seeds)
def test_gensim_reads_our_file_and_agrees_on_neighbours_analogies_and_judgements(tmp_path_factory, seed):
    models = pytest.importorskip("gensim.models")
    folder = tmp_path_factory.mktemp("gensim")
    rng = np.random.default_rng(seed)
    words, rows = [f"w{i}" for i in range(40)], rng.standard_normal((40, 5)).astype(np.float32)
    vectors.save(folder / "v.txt", words, rows)
    theirs, ours = models.KeyedVectors.load_word2vec_format(str(folder / "v.txt")), vectors.make(words, rows)
    assert (theirs.vectors == rows).all()
    assert [w for w, _ in vectors.nearest(ours, "w3", 5)] == [w for w, _ in theirs.most_similar("w3", topn=5)]
    by_product = vectors.analogy(ours, "w1", "w2", "w3", 4, vectors.scores_by_product)
    cosmul = theirs.most_similar_cosmul(positive=["w2", "w3"], negative=["w1"], topn=4)
    assert by_product == [w for w, _ in cosmul]
    pairs = [(f"w{a}", f"w{b}", float(x)) for a, b, x in rng.integers(0, 40, (30, 3))]
    (folder / "pairs.tsv").write_text("".join(f"{a}\t{b}\t{x}\n" for a, b, x in pairs))
    _, spearman, _ = theirs.evaluate_word_pairs(str(folder / "pairs.tsv"))
    assert_close(vectors.similarity_correlation(ours, pairs).value, spearman.statistic, 64, np.float32)
    questions = [[f"w{i}" for i in four] for four in (rng.permutation(40)[:4] for _ in range(30))]
    answers = [vectors.analogy(ours, *four[:3], 1)[0] for four in questions]
    questions += [[*four[:3], answer] for four, answer in zip(questions, answers, strict=True)]
    (folder / "questions").write_text(": all\n" + "".join(" ".join(four) + "\n" for four in questions))
    accuracy, _ = theirs.evaluate_word_analogies(str(folder / "questions"), restrict_vocab=40, case_insensitive=False)
    assert vectors.analogy_accuracy(ours, questions).value == accuracy


def test_no_word_of_the_question_is_an_answer_however_many_are_wanted():
    square = vectors.make(["man", "king", "woman", "queen"], np.array([[1.0, 0, 1], [1, 1, 1], [1, 0, -1], [1, 1, -1]]))
    assert vectors.analogy(square, "man", "king", "woman", 3) == ["queen"]


def test_rows_may_be_of_any_length_that_is_a_number():
    far = np.array([[3e30, 4e30], [1e-30, 0]], np.float32)
    assert_close(vectors.make(["a", "b"], far).unit, np.array([[0.6, 0.8], [1, 0]]), LAYER, np.float32)
    assert_close(
        vectors.make(["a"], np.array([[3e4, 4e4]], np.float16)).unit, np.array([[0.6, 0.8]]), LAYER, np.float16
    )
    with pytest.raises(ValueError, match="The row of 'b' holds numbers that are not finite"):
        vectors.make(["a", "b"], np.array([[1.0, 2.0], [np.nan, 1.0]]))


def test_files_of_vectors_with_one_number_need_no_first_line(tmp_path):
    path = tmp_path / "vectors.txt"
    path.write_text("the 0.5\nof -1.5\n")
    words, rows = vectors.load(path)
    assert (words, rows.tolist()) == (["the", "of"], [[0.5], [-1.5]])


@cheap
@given(seeds, st.lists(st.integers(0, 2), min_size=7, max_size=7))
def test_a_group_is_kept_where_the_nearest_of_all_the_groups_is_of_it(seed, group_of):
    v, rows = some(seed)
    groups = {str(g): [word for word, own in zip(WORDS, group_of, strict=True) if own == g] for g in range(3)}
    nearest = [max((j for j in range(7) if j != i), key=lambda j: cosine(rows[i], rows[j])) for i in range(7)]
    right = sum(group_of[i] == group_of[j] for i, j in enumerate(nearest))
    assert vectors.neighbours_in_group(v, {**groups, "unknown": ["unheard", "unseen"]}) == (right / 7, 7, 9)


def test_groups_without_vectors_are_refused():
    v, _ = some(0)
    with pytest.raises(ValueError, match="Of the 3 words of the groups 1 have vectors"):
        vectors.neighbours_in_group(v, {"a": ["the", "unheard"], "b": ["unseen"]})


def test_a_map_shows_every_word_that_has_a_vector(tmp_path):
    plt = pytest.importorskip("matplotlib.pyplot")
    v, _ = some(0)
    shown = []
    close, plt.close = plt.close, lambda figure: shown.extend(text.get_text() for text in figure.axes[0].texts)
    try:
        vectors.draw_groups(v, {"short": ["the", "of", "unheard"], "long": ["Zürich", "new_york"]}, tmp_path / "m.png")
    finally:
        plt.close = close
        plt.close("all")
    assert sorted(shown) == ["Zürich", "new_york", "of", "the"]
    assert (tmp_path / "m.png").read_bytes().startswith(b"\x89PNG")
