from hypothesis import strategies as st

from minilm.layers.attention import core
from minilm.reference.attention import core as reference
from tests import torch_oracle
from tests.flex_oracle import FLEX, flex_attention
from tests.records import Record
from tests.strategies import arrays, mask_and_bias, sizes

SIZES = sizes((2, 3, 4, 5, 6, 1), (1, 2, 5, 3, 4, 2), (3, 1, 1, 2, 1, 4))  # g, r, t, s, k, v


@st.composite
def scores_arguments(draw):
    g, r, t, s, k, _ = draw(SIZES)
    return draw(arrays(g, r, t, k)), draw(arrays(g, s, k))


@st.composite
def mix_arguments(draw):
    g, r, t, s, _, v = draw(SIZES)
    return draw(arrays(g, r, t, s)), draw(arrays(g, s, v))


@st.composite
def attention_arguments(draw):
    g, r, t, s, k, v = draw(SIZES)
    return draw(arrays(g, r, t, k)), draw(arrays(g, s, k)), draw(arrays(g, s, v)), *mask_and_bias(draw, g, r, t, s)


RECORDS = (
    Record(core.scores, reference.scores, reference.scores_backward, scores_arguments(), statistic=True),
    Record(core.mix, reference.mix, reference.mix_backward, mix_arguments()),
    Record(
        core.dot_product_attention,
        reference.dot_product_attention,
        reference.dot_product_attention_backward,
        attention_arguments(),
        oracles={"torch": torch_oracle.attention, FLEX: lambda *arguments: flex_attention(*arguments)[0]},
    ),
)
