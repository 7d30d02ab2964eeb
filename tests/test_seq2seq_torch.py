"""Sequence to sequence beside a model put together of PyTorch's own cells, whose gradient is PyTorch's."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from minilm.models import decoders, scorers
from tests.test_seq2seq import CONFIG, WRITER, example, gradient_of_loss
from tests.tolerances import FORMULA, assert_close


def torch_losses(torch, params, batch, luong):
    """The sum of the losses by PyTorch's cells and layers, one sequence at a time; and its parameters, as ours."""
    p = jax.tree.map(lambda leaf: torch.tensor(np.asarray(leaf), requires_grad=True), params)

    def cell(kind, layer):
        made = kind(*layer.w_x.shape[:1], layer.w_h.shape[0]).double()
        ours = (layer.w_x.T, layer.w_h.T, layer.b_x, layer.b_h)
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        return lambda *x: torch.func.functional_call(made, dict(zip(names, ours, strict=True)), x)

    def affine(layer, x):
        return torch.nn.functional.linear(x, layer.w.T, layer.b)

    [layer] = p.encoder.layers
    forward, backward = (cell(torch.nn.GRUCell, direction) for direction in layer)
    write = [cell(torch.nn.LSTMCell if luong else torch.nn.GRUCell, one) for one in p.decoder.cells]
    total = torch.zeros((), dtype=torch.float64)
    for row, n in enumerate(map(int, batch.source_length)):
        x = p.encoder.embedding[torch.tensor(np.asarray(batch.source[row, :n]))]
        h, ways = torch.zeros(3, dtype=torch.float64), []
        for read_one, order in ((forward, range(n)), (backward, range(n - 1, -1, -1))):
            state, said = h, {}
            for i in order:
                state = said[i] = read_one(x[i], state)
            ways.append(torch.stack([said[i] for i in range(n)]))
        values = torch.cat(ways, dim=1)
        first = torch.tanh(affine(p.decoder.start, values[-1 if luong else 0])).split(5)
        states = [*zip(first[::2], first[1::2], strict=True)] if luong else [*first]
        fed = torch.zeros(5, dtype=torch.float64)
        for t in range(int(batch.weights[row].sum())):
            x, asks = p.embedding[int(batch.inputs[row, t])], states[-1]
            if luong:
                y = torch.cat([x, fed])
                for l, one in enumerate(write):
                    states[l] = one(y, states[l])
                    y = states[l][0]
                a = torch.softmax(values @ (y @ p.decoder.scorer.w), dim=0)
                y = fed = torch.tanh(affine(p.decoder.readout, torch.cat([a @ values, y])))
            else:
                scorer = p.decoder.scorer
                a = torch.softmax(torch.tanh(asks @ scorer.w_q + values @ scorer.w_k) @ scorer.v, dim=0)
                states = [write[0](torch.cat([x, a @ values]), states[0])]
                y = affine(p.decoder.readout, torch.cat([states[0], a @ values, x])).unflatten(0, (-1, 2)).amax(1)
            target = torch.tensor(int(batch.targets[row, t]))
            total = total + torch.nn.functional.cross_entropy(affine(p.output, y), target)
    return total, p


@pytest.mark.slow
@pytest.mark.parametrize("luong", [False, True], ids=["bahdanau, GRU", "luong, LSTM, general"])
def test_the_loss_and_its_gradient_equal_those_of_a_model_of_pytorchs_cells(luong):
    torch = pytest.importorskip("torch")
    two = decoders.luong(replace(WRITER, cell="lstm", n_layers=2), scorers.general())
    config = replace(CONFIG, decoder=two) if luong else CONFIG
    params, batch = example(config, seed=2)
    (value, metrics), gradient = gradient_of_loss(params, batch, config=config)
    expected, theirs = torch_losses(torch, params, batch, luong)
    mean = expected / float(metrics.token_count)
    mean.backward()
    assert_close(value, mean.item(), FORMULA)
    assert_close(gradient, jax.tree.map(lambda leaf: leaf.grad.numpy(), theirs), FORMULA)
