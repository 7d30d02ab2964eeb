r"""How well labels are predicted: accuracy, the confusion matrix, and precision, recall and F1 with their averages.

Everything but accuracy is a ratio of three counts of each class, so the counts come first, whatever they were taken of,
and the scores are functions of them:

    micro_scores(class_counts(targets, predictions, n_classes))
    macro_scores(counts)      weighted_scores(counts)      per_class_scores(counts)

A class that was never predicted has a precision of 0/0, and one that never occurs a recall of 0/0. The rule for both is
one argument: 0/0 counts as `undefined`, 0 unless told otherwise. With `undefined=math.nan` it stays unknown, and the
averages leave it out.
"""

from typing import NamedTuple

import numpy as np


class Counts(NamedTuple):
    """What scores are made of, for each class (or in all): those of two parts of a corpus add up to those of the whole.

    correct: predicted, and rightly so: true positives, `(c,)`.
    predicted: how often the class was predicted: true and false positives, `(c,)`.
    actual: how often it was the truth: true positives and false negatives, `(c,)`.
    """

    correct: np.ndarray
    predicted: np.ndarray
    actual: np.ndarray


class Scores(NamedTuple):
    """Precision, recall and their harmonic mean, of each class `(c,)` or as one number, beside how often it occurs."""

    precision: float | np.ndarray
    recall: float | np.ndarray
    f1: float | np.ndarray
    support: int | np.ndarray


def accuracy(targets, predictions) -> float:
    r"""The share of predictions that are right.

    $$ \frac1n \sum_i [\hat y_i = y_i] $$

    Args:
      targets: y, labels of any kind, in any shape.
      predictions: ŷ, of the same shape.
    Raises:
      ValueError: the shapes differ, or there is nothing to be right about.

    >>> accuracy(["cat", "dog", "dog"], ["cat", "dog", "cat"])
    0.6666666666666666
    """
    targets, predictions = _paired(targets, predictions)
    if not targets.size:
        raise ValueError("expected at least one prediction to take the accuracy of, got none: check what was selected.")
    return float((targets == predictions).mean())


def confusion_matrix(targets, predictions, n_classes: int) -> np.ndarray:
    r"""How often each class was taken for each other: rows are the truth, columns what was predicted.

    $$ C_{ab} = \sum_i [y_i = a]\, [\hat y_i = b] $$

    Args:
      targets: y, integers from 0 to n_classes − 1, in any shape.
      predictions: ŷ, likewise.
      n_classes: c; a class that never occurs keeps its row and column, of zeros.
    Returns:
      C, integers `(c, c)`.
    Raises:
      ValueError: the shapes differ, or a label is no integer from 0 to n_classes − 1.

    >>> confusion_matrix([0, 0, 1, 1, 1], [0, 1, 1, 1, 0], n_classes=3)
    array([[1, 1, 0],
           [1, 2, 0],
           [0, 0, 0]])
    """
    targets, predictions = _paired(targets, predictions)
    pairs = _class_numbers(targets, n_classes) * n_classes + _class_numbers(predictions, n_classes)
    return np.bincount(pairs.ravel(), minlength=n_classes**2).reshape(n_classes, n_classes)


def class_counts(targets, predictions, n_classes: int) -> Counts:
    r"""The counts of each class: the confusion matrix's diagonal, its columns' sums and its rows'.

    $$ \text{correct}_a = C_{aa}, \qquad \text{predicted}_a = \sum_b C_{ba}, \qquad \text{actual}_a = \sum_b C_{ab} $$

    Arguments and errors are those of `confusion_matrix`.

    >>> class_counts([0, 0, 1, 1, 1], [0, 1, 1, 1, 0], n_classes=2)
    Counts(correct=array([1, 2]), predicted=array([2, 3]), actual=array([2, 3]))
    """
    confusion = confusion_matrix(targets, predictions, n_classes)
    return Counts(correct=np.diag(confusion), predicted=confusion.sum(0), actual=confusion.sum(1))


def per_class_scores(counts: Counts, undefined: float = 0.0) -> Scores:
    r"""Precision, recall and F1 of each class.

    $$ P = \frac{\text{correct}}{\text{predicted}}, \qquad R = \frac{\text{correct}}{\text{actual}}, \qquad
       F_1 = \frac{2\,\text{correct}}{\text{predicted} + \text{actual}} = \frac{2PR}{P + R} $$

    Written with the counts, F1 is 0/0 only for a class that neither occurs nor is predicted.

    Args:
      counts: of each class.
      undefined: what 0/0 counts as.
    Returns:
      scores `(c,)`.

    >>> per_class_scores(class_counts([0, 0, 1, 1], [0, 1, 1, 1], n_classes=3)).recall
    array([0.5, 1. , 0. ])
    """
    return Scores(
        precision=_ratio(counts.correct, counts.predicted, undefined),
        recall=_ratio(counts.correct, counts.actual, undefined),
        f1=_ratio(2 * counts.correct, counts.predicted + counts.actual, undefined),
        support=counts.actual,
    )


def micro_scores(counts: Counts, undefined: float = 0.0) -> Scores:
    r"""The scores of the counts' sums: every prediction weighs the same, so frequent classes decide.

    $$ P = \frac{\sum_a \text{correct}_a}{\sum_a \text{predicted}_a}, \qquad
       R = \frac{\sum_a \text{correct}_a}{\sum_a \text{actual}_a} $$

    Where each example has one label and gets one prediction, all three are the accuracy.

    >>> micro_scores(class_counts([0, 0, 1, 1], [0, 1, 1, 1], n_classes=2))
    Scores(precision=0.75, recall=0.75, f1=0.75, support=4)
    """
    scores = per_class_scores(Counts(*(np.sum(n) for n in counts)), undefined)
    return Scores(float(scores.precision), float(scores.recall), float(scores.f1), int(scores.support))


def macro_scores(counts: Counts, undefined: float = 0.0) -> Scores:
    r"""The plain mean over the classes: a rare class weighs as much as a frequent one.

    $$ P = \frac1c \sum_a P_a, \qquad R = \frac1c \sum_a R_a, \qquad F_1 = \frac1c \sum_a F_{1,a} $$

    This F1 is the mean of the classes' F1, not the harmonic mean of the two means beside it.

    >>> round(macro_scores(class_counts([0, 0, 1, 1], [0, 1, 1, 1], n_classes=2)).f1, 4)
    0.7333
    """
    return _averaged(counts, np.ones(np.shape(counts.actual)), undefined)


def weighted_scores(counts: Counts, undefined: float = 0.0) -> Scores:
    r"""The mean over the classes, each weighed by how often it occurs.

    $$ P = \frac{\sum_a \text{actual}_a\, P_a}{\sum_a \text{actual}_a}, \qquad R, F_1 \text{ likewise} $$

    Its recall is the accuracy. Where no class occurs at all, every class weighs the same.

    >>> weighted_scores(class_counts([0, 0, 0, 1], [0, 1, 1, 1], n_classes=2)).recall
    0.5
    """
    return _averaged(counts, counts.actual, undefined)


def _averaged(counts, weights, undefined):
    scores = per_class_scores(counts, undefined)
    means = [_mean(values, weights, undefined) for values in (scores.precision, scores.recall, scores.f1)]
    return Scores(*means, support=int(np.sum(counts.actual)))


def _mean(values, weights, undefined):
    known = ~np.isnan(values)
    values, weights = values[known], weights[known]
    if not len(values):
        return undefined
    weights = weights if weights.any() else np.ones(len(values))
    return float((weights * values).sum() / weights.sum())


def _ratio(numerator, denominator, undefined):
    return np.where(denominator == 0, undefined, numerator / np.maximum(denominator, 1))


def _paired(targets, predictions):
    targets, predictions = np.asarray(targets), np.asarray(predictions)
    if targets.shape != predictions.shape:
        raise ValueError(
            f"expected a prediction for each target, got the shapes {targets.shape} of targets and "
            f"{predictions.shape} of predictions: give both the same shape."
        )
    return targets, predictions


def _class_numbers(labels, n_classes):
    if labels.size and not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"expected classes as integers, got {labels.dtype}: number them first.")
    wrong = labels[(labels < 0) | (labels >= n_classes)]
    if wrong.size:
        raise ValueError(
            f"expected classes from 0 to {n_classes - 1}, got {wrong[0]}: give n_classes as many as there are, "
            "and leave padding out."
        )
    return labels.astype(np.int64)
