"""How fast is a tagger's training step beside one of PyTorch's own parts?

    python -m benchmarks.tagger [--rounds 9]

The tagger of example 07 in float32: 52,109 characters and pairs, three to a place, vectors of 32, a recurrent layer of
64 in both directions, four tags; one Adam step on 64 sentences of 64 places. Both with the C library's allocator as it
comes. The CRF, which PyTorch itself does not have, is that of `pytorch-crf`; minilm's step counts the tags that are
right too, which takes the best path of every sentence.
"""

import argparse

from benchmarks import measure

VOCABULARY, M, D, H, C, B, T = 52109, 3, 32, 64, 4, 64, 64


def candidates() -> dict:
    """(model, library) -> a function without arguments that makes one step."""
    from functools import partial

    import jax
    import numpy as np
    import optax
    import torch
    from torchcrf import CRF

    from minilm import training
    from minilm.models import encoders, tagger

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    tokens, tags = rng.integers(0, VOCABULARY, (B, T, M)).astype(np.int32), rng.integers(0, C, (B, T)).astype(np.int32)
    batch = tagger.Batch(tokens, np.full(B, T, np.int32), tags, np.ones((B, T), np.float32))

    def ours(cell, crf):
        config = tagger.Config(encoders.recurrent(encoders.Config(VOCABULARY, M, D, cell, 1, H)), C, crf)
        optimizer = optax.adam(1e-3)
        step = training.make_step(partial(tagger.loss, config=config), optimizer, seed=0)
        state = training.init_state(tagger.init(jax.random.key(0), config), optimizer)
        parts = jax.tree.map(lambda leaf: leaf[None, None], batch)

        def one_step():
            nonlocal state
            state, metrics = step(state, parts)
            jax.block_until_ready((state, metrics))

        return one_step

    def theirs(kind, crf=None):
        embedding, output = torch.nn.Embedding(VOCABULARY, D), torch.nn.Linear(2 * H, C)
        network = kind(M * D, H, batch_first=True, bidirectional=True)
        modules = [module for module in (embedding, network, output, crf) if module is not None]
        optimizer = torch.optim.Adam([p for module in modules for p in module.parameters()], lr=1e-3)
        x, y = torch.tensor(tokens, dtype=torch.long), torch.tensor(tags, dtype=torch.long)
        everywhere = torch.ones(B, T, dtype=torch.bool)

        def one_step():
            optimizer.zero_grad()
            scores = output(network(embedding(x).flatten(2))[0])
            if crf is None:
                loss = torch.nn.functional.cross_entropy(scores.flatten(0, 1), y.flatten())
            else:
                loss = -crf(scores, y, mask=everywhere, reduction="token_mean")
            loss.backward()
            optimizer.step()

        return one_step

    return {
        ("GRU, softmax", "minilm"): ours("gru", False),
        ("GRU, softmax", "torch"): theirs(torch.nn.GRU),
        ("LSTM, softmax", "minilm"): ours("lstm", False),
        ("LSTM, softmax", "torch"): theirs(torch.nn.LSTM),
        ("GRU, CRF", "minilm"): ours("gru", True),
        ("GRU, CRF", "torch"): theirs(torch.nn.GRU, CRF(C, batch_first=True)),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--core", type=int, default=0, help="the core that this process is held to")
    arguments = parser.parse_args()
    measure.pin(arguments.core)
    times = measure.compare(candidates(), rounds=arguments.rounds, seconds=60)
    rows = []
    for model in dict.fromkeys(model for model, _ in times):
        ours, theirs = (round(measure.median(times[model, library]) * 1e3, 1) for library in ("minilm", "torch"))
        speed = round(measure.speed(times, (model, "minilm"), (model, "torch")), 2)
        rows.append({"model": model, "minilm_ms": ours, "torch_ms": theirs, "speed": speed})
        print(rows[-1])
    measure.write("tagger", rows, f"python -m benchmarks.tagger --rounds {arguments.rounds}")


if __name__ == "__main__":
    main()
