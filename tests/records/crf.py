from itertools import pairwise, product

import numpy as np
from hypothesis import strategies as st

from minilm.layers import crf
from minilm.reference import crf as reference
from tests.records import Record
from tests.strategies import arrays, weights

T, C = 5, 3  # one size, for five layers compile for it; a single position has a test of its own


@st.composite
def crf_params(draw):
    return crf.CRFParams(transitions=draw(weights(C, C)), start=draw(weights(C)), end=draw(weights(C)))


@st.composite
def field_arguments(draw, scale=1.0):
    return draw(crf_params()), draw(arrays(T, C, scale=scale)), np.asarray(draw(st.integers(0, T)))


@st.composite
def path_arguments(draw):
    """A path whose padding holds what is no tag at all, and which is never so likely that log p has no digits left."""
    params, emissions, length = draw(field_arguments(scale=0.25))
    tags = np.array([draw(st.integers(0, C - 1)) for _ in range(T)])
    tags[length:] = draw(st.integers(-2, C + 1))
    return params, emissions, tags, length


def torch_log_normalizer(params, emissions, length):
    """The sum over all paths, each by itself."""
    import torch

    transitions, start, end = params
    scores = []
    for path in product(range(C), repeat=int(length)):
        steps = [*(emissions[t, y] for t, y in enumerate(path)), *(transitions[a, b] for a, b in pairwise(path))]
        ends = [start[path[0]], end[path[-1]]] if path else []
        scores.append(sum([*steps, *ends], emissions[:0].sum()))  # even where nothing is added, a 0 on the graph
    return torch.logsumexp(torch.stack(scores), 0)


RECORDS = (
    Record(crf.crf_score, reference.crf_score, reference.crf_score_backward, path_arguments(), statistic=True),
    Record(
        crf.crf_log_normalizer,
        reference.crf_log_normalizer,
        reference.crf_log_normalizer_backward,
        field_arguments(),
        oracles={"torch": torch_log_normalizer},
        statistic=True,
    ),
    Record(
        crf.crf_log_likelihood,
        reference.crf_log_likelihood,
        reference.crf_log_likelihood_backward,
        path_arguments(),
        statistic=True,
    ),
    Record(crf.crf_marginals, reference.crf_marginals, reference.crf_marginals_backward, field_arguments()),
    Record(crf.viterbi, reference.viterbi, reference.viterbi_backward, field_arguments(), statistic=True),
)
