from functools import wraps

from minilm.layers.attention import biases, masks, pallas
from minilm.reference.attention import biases as reference_biases
from minilm.reference.attention import masks as reference_masks
from minilm.reference.attention import pallas as reference
from tests.records import Record
from tests.records.attention_blockwise import OUTPUT, backward_part, blockwise_arguments


@wraps(pallas.pallas_attention)
def output(q, k, v, query, key, slopes):
    """Of causal attention with ALiBi, in tiles that divide nothing."""
    return pallas.pallas_attention(q, k, v, query, key, masks.Causal(), biases.Alibi(slopes), t_block=2, s_block=3)[0]


@wraps(reference.pallas_attention)
def reference_output(q, k, v, query, key, slopes):
    bias = reference_biases.Alibi(slopes)
    (o, _), saved = reference.pallas_attention(q, k, v, query, key, reference_masks.Causal(), bias)
    return o, saved


# One tuple of sizes, for a kernel takes seconds to compile; lse and its gradient stand in tests/test_pallas.py.
ARGUMENTS = blockwise_arguments(rows_are_empty=True, shapes=[(2, 3, 5, 7, 4, 1)])
BACKWARD = backward_part(OUTPUT, reference.pallas_attention_backward)
RECORDS = (Record(output, reference_output, BACKWARD, ARGUMENTS, label="output"),)
