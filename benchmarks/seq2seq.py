"""How fast is a training step of example 08's sequence-to-sequence model beside one of PyTorch's own parts?

    python -m benchmarks.seq2seq [--rounds 9]

The model that example 08 trains in earnest, in float32 and without dropout: 28 letters and 40 phones, vectors of 64, a
GRU of 128 in each direction that reads, one of 256 that writes with additive attention through 128; one Adam step on
128 pairs of 11 letters and 11 phones, none of them padding. Beside it the same with Luong's dot and input feeding.
PyTorch's reader is its fused `GRU`, its writer a loop over `GRUCell` with all readouts and logits after the loop. Both
start from the same parameters, and it is checked that their first five losses are the same. The C library's allocator
is as it comes.
"""

import argparse

from benchmarks import measure

LETTERS, PHONES, D, H, K, B, S, T = 28, 40, 64, 256, 128, 128, 11, 11


def candidates() -> dict:
    """(model, library) -> a function without arguments that makes one step and returns the loss before it."""
    import jax
    import numpy as np
    import optax
    import torch
    from torch import nn

    from minilm import training
    from minilm.data.pairs import pad
    from minilm.models import decoders, encoders, scorers, seq2seq

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    batch = pad(rng.integers(0, LETTERS, (B, S)), rng.integers(1, PHONES, (B, T - 1)))
    reader = encoders.recurrent(encoders.Config(LETTERS, d_model=D, d_hidden=H // 2))

    def ours(decoder):
        config = seq2seq.Config(reader, decoder, PHONES, d_model=D)
        params, optimizer = seq2seq.init(jax.random.key(0), config), optax.adam(1e-3)
        step = training.make_step(lambda p, batch, key: seq2seq.loss(p, batch, config=config), optimizer, seed=0)
        leaves = [np.array(leaf) for leaf in jax.tree.leaves(params)]
        state, parts = training.init_state(params, optimizer), jax.tree.map(lambda leaf: leaf[None, None], batch)

        def one_step():
            nonlocal state
            state, metrics = step(state, parts)
            jax.block_until_ready((state, metrics))
            return metrics["loss"].item()

        return one_step, leaves

    # The modules of both stand in the order of minilm's parameters, so that one list fills either.
    class Bahdanau(nn.Module):
        def __init__(self):
            super().__init__()
            self.letters = nn.Embedding(LETTERS, D)
            self.reader = nn.GRU(D, H // 2, batch_first=True, bidirectional=True)
            self.phones = nn.Embedding(PHONES, D)
            self.cell = nn.GRUCell(D + H, H)
            self.start = nn.Linear(H, H)
            self.query, self.key = nn.Linear(H, K, bias=False), nn.Linear(H, K, bias=False)
            self.score = nn.Linear(K, 1, bias=False)
            self.readout = nn.Linear(H + H + D, 2 * H)
            self.output = nn.Linear(H, PHONES)

        def forward(self, source, outside, inputs):
            values, _ = self.reader(self.letters(source))
            keys, s, ys = self.key(values), torch.tanh(self.start(values[:, 0])), []
            for x in self.phones(inputs).unbind(1):
                scores = self.score(torch.tanh(self.query(s)[:, None] + keys)).squeeze(-1)
                a = torch.softmax(scores.masked_fill(outside, -torch.inf), -1)
                c = torch.bmm(a[:, None], values).squeeze(1)
                s = self.cell(torch.cat([x, c], -1), s)
                ys.append(torch.cat([s, c, x], -1))
            return self.output(self.readout(torch.stack(ys, 1)).unflatten(-1, (H, 2)).amax(-1))

    class Luong(nn.Module):
        def __init__(self):
            super().__init__()
            self.letters = nn.Embedding(LETTERS, D)
            self.reader = nn.GRU(D, H // 2, batch_first=True, bidirectional=True)
            self.phones = nn.Embedding(PHONES, D)
            self.cell = nn.GRUCell(D + H, H)
            self.start = nn.Linear(H, H)
            self.readout = nn.Linear(H + H, H)
            self.output = nn.Linear(H, PHONES)

        def forward(self, source, outside, inputs):
            values, _ = self.reader(self.letters(source))
            s, y, ys = torch.tanh(self.start(values[:, -1])), torch.zeros(len(source), H), []
            for x in self.phones(inputs).unbind(1):
                s = self.cell(torch.cat([x, y], -1), s)
                scores = torch.bmm(values, s[:, :, None]).squeeze(-1)
                a = torch.softmax(scores.masked_fill(outside, -torch.inf), -1)
                c = torch.bmm(a[:, None], values).squeeze(1)
                y = torch.tanh(self.readout(torch.cat([c, s], -1)))
                ys.append(y)
            return self.output(torch.stack(ys, 1))

    def theirs(model, leaves):
        with torch.no_grad():
            for (name, parameter), leaf in zip(model.named_parameters(), leaves, strict=True):
                embeds = name in ("letters.weight", "phones.weight")
                parameter.copy_(torch.tensor(leaf if embeds else leaf.T).view_as(parameter))
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        source, inputs, targets = (torch.tensor(x).long() for x in (batch.source, batch.inputs, batch.targets))
        outside = torch.arange(S) >= torch.tensor(batch.source_length)[:, None]

        def one_step():
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(source, outside, inputs).flatten(0, 1), targets.flatten())
            loss.backward()
            optimizer.step()
            return loss.item()

        return one_step

    found = {}
    for name, decoder, peer in (
        ("Bahdanau, additive", decoders.bahdanau(decoders.Config(H), scorers.additive(K)), Bahdanau),
        ("Luong, dot, input feeding", decoders.luong(decoders.Config(H), scorers.dot()), Luong),
    ):
        found[name, "minilm"], leaves = ours(decoder)
        found[name, "torch"] = theirs(peer(), leaves)
    return found


def check(functions):
    """Raise unless both libraries' losses of the first five steps agree: the same model, gradient and optimizer."""
    for model in dict.fromkeys(model for model, _ in functions):
        for i in range(5):
            ours, theirs = (functions[model, library]() for library in ("minilm", "torch"))
            if abs(ours - theirs) > 1e-4:
                raise ValueError(f"{model}: the loss before step {i} is {ours} here and {theirs} in PyTorch.")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--core", type=int, help="the core to hold it to (default: the first it may use)")
    arguments = parser.parse_args()
    measure.pin(arguments.core)
    functions = candidates()
    check(functions)
    times = measure.compare(functions, rounds=arguments.rounds, seconds=60)
    rows = []
    for model, library in times:
        if library == "minilm":
            row = {
                "model": model,
                "minilm_ms": round(measure.median(times[model, library]) * 1e3, 1),
                "torch_ms": round(measure.median(times[model, "torch"]) * 1e3, 1),
                "speed": round(measure.speed(times, (model, library), (model, "torch")), 2),
            }
            rows.append(row)
            print(row)
    measure.write("seq2seq", rows, f"python -m benchmarks.seq2seq --rounds {arguments.rounds}")


if __name__ == "__main__":
    main()
