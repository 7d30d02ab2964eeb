"""Does a byte-pair encoder in Python keep up with those in Rust? Training, and encoding, on 10 MB of code and prose.

    python -m benchmarks.tokenizers

One thread, CPU time. `cold` encodes with a tokenizer that has seen no word yet, `warm` the same text again. The peers
encode as their users would, `tokenizers` by `encode_batch_fast`, tiktoken by `encode_ordinary`; one vocabulary for all.
"""

import tempfile
from pathlib import Path

from benchmarks import measure

measure.pin()

import tiktoken  # noqa: E402
import tokenizers  # noqa: E402

from minilm.data.corpora import documents  # noqa: E402
from minilm.data.tokenizers import BPETokenizer, load  # noqa: E402
from minilm.data.tokenizers.pretokenize import GPT2_PATTERN  # noqa: E402

N_BYTES, N_MERGES = 10_000_000, 8_000
EVERY_BYTE = tokenizers.pre_tokenizers.ByteLevel.alphabet()


def corpus() -> list[str]:
    """Prose first, then code, up to ten million bytes."""
    texts, size = [], 0
    for text in (*documents("prose"), *documents("code")):
        texts.append(text)
        size += len(text.encode())
        if size > N_BYTES:
            break
    return texts


def train_theirs(texts):
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE())
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=256 + N_MERGES, initial_alphabet=EVERY_BYTE, show_progress=False
    )
    theirs.train_from_iterator(texts, trainer)
    return theirs


def train_ours(texts):
    return BPETokenizer.train(texts, vocab_size=256 + N_MERGES + 1)


def main():
    texts = corpus()
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    times = measure.compare(
        {"minilm": lambda: train_ours(texts), "tokenizers": lambda: train_theirs(texts)}, rounds=7, warmup=1
    )
    rows = [
        row("train 8k merges", name, times, megabytes, bar="≤ 1.0 × the CPU time of tokenizers, aim 0.8")
        for name in times
    ]

    ours = train_ours(texts)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.json"
        ours.save(path)
        theirs = tokenizers.Tokenizer.from_file(str(path))
        reloaded = [load(path) for _ in range(9)]  # one for each cold round: loading is not encoding
    openai = tiktoken.Encoding(
        "minilm",
        pat_str=r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+""",
        mergeable_ranks={token: i for i, token in enumerate(ours.token_bytes[:-1])},
        special_tokens={},
    )
    for text in texts[::50]:
        assert theirs.encode(text).ids == ours.encode(text).tolist() == openai.encode_ordinary(text)

    candidates = {
        "minilm, cold": lambda: encode_all(reloaded.pop(), texts),
        "minilm, warm": lambda: encode_all(ours, texts),
        "tokenizers": lambda: theirs.encode_batch_fast(texts),
        "tiktoken": lambda: [openai.encode_ordinary(text) for text in texts],
        "regex alone": lambda: [GPT2_PATTERN.findall(text) for text in texts],
    }
    times = measure.compare(candidates, rounds=7, warmup=1)
    rows += [row("encode", name, times, megabytes, bar="≥ 2 × tokenizers, aim 0.6 × tiktoken") for name in times]
    million = measure.compare({"minilm": lambda: ours.encode("a" * 10**6)}, rounds=5, warmup=1)
    rows.append(
        {
            "question": "encode 'a' * 10**6",
            "candidate": "minilm",
            "seconds": round(measure.median(million["minilm"]), 3),
        }
    )
    for line in rows:
        print(*(f"{key}: {value}" for key, value in line.items()), sep="   ")
    measure.write("tokenizers", rows, "python -m benchmarks.tokenizers")


def encode_all(tokenizer, texts):
    return [tokenizer.encode(text) for text in texts]


def row(question, name, times, megabytes, bar):
    seconds = measure.median(times[name])
    peers = {
        f"speed over {peer}": round(measure.speed(times, name, peer), 2)
        for peer in ("tokenizers", "tiktoken")
        if peer in times
    }
    return {
        "question": question,
        "candidate": name,
        "CPU seconds": round(seconds, 3),
        "MB/s": round(megabytes / seconds, 2),
        **peers,
        "bar": bar,
    }


if __name__ == "__main__":
    main()
