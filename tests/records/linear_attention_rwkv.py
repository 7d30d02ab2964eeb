from minilm.layers.linear_attention import rwkv
from minilm.reference.linear_attention import rwkv as reference
from tests.records import Record
from tests.records.linear_attention_gated import chunked_arguments, parallel_arguments, step_arguments
from tests.strategies import weights


def with_bonus(arguments):
    """The arguments of `gated`, and u for each head and key dimension."""

    def bonus(drawn):
        r = drawn[-4]  # of (r, k, v, log_decay), which end them
        return weights(r.shape[0], r.shape[-1]).map(lambda u: (*drawn, u))

    return arguments.flatmap(bonus)


def torch_recurrence(state, r, k, v, log_decay, u, chunk=None):
    """The recurrence as the paper states it, a matrix for each head."""
    import torch

    outputs = []
    for t in range(r.shape[1]):
        write = k[:, t].unsqueeze(2) @ v[:, t].unsqueeze(1)
        outputs.append((r[:, t].unsqueeze(1) @ (state + torch.diag_embed(u) @ write)).squeeze(1))
        state = torch.diag_embed(log_decay[:, t].exp()) @ state + write
    return state, torch.stack(outputs, dim=1)


def torch_parallel(r, k, v, log_decay, u):
    return torch_recurrence(r.new_zeros(len(r), r.shape[2], v.shape[2]), r, k, v, log_decay, u)[1]


def torch_step(state, *inputs):
    *inputs, u = inputs
    state, o = torch_recurrence(state, *(x[:, None] for x in inputs), u)
    return state, o[:, 0]


def record(name, arguments, oracle, **rest):
    function, backward = getattr(reference, name), getattr(reference, f"{name}_backward")
    return Record(getattr(rwkv, name), function, backward, with_bonus(arguments), oracles={"torch": oracle}, **rest)


RECORDS = (
    record("rwkv6_step", step_arguments(), torch_step),
    record("rwkv6_parallel", parallel_arguments(), torch_parallel),
    *(
        record("rwkv6_chunked", chunked_arguments(), torch_recurrence, static={"chunk": chunk}, label=str(chunk))
        for chunk in (1, 2, 8)
    ),
)
