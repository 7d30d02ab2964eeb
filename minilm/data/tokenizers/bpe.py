"""Byte-pair encoding: the tokens are learnt by joining, again and again, the pair that occurs most often.

Sennrich, Haddow and Birch (2016), arXiv:1508.07909, over bytes instead of characters as in GPT-2, so that any text
can be written. Throughout, a token is held as the *character* of its id: a word is then a string, a pair a string of
two, and `str.replace` joins tokens at the speed of C.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from heapq import heapify, heappop, heappush
from operator import add

import numpy as np

from minilm.data.tokenizers.base import Tokenizer, special_after
from minilm.data.tokenizers.byte import BYTE_TO_CHARACTER, GPT2_ORDER
from minilm.data.tokenizers.pretokenize import words

CACHED_WORDS = 1 << 18  # words whose ids are remembered; the memory this takes is bounded
CACHED_LENGTH = 64  # tokens; longer words are rare, and joined by buckets instead


class BPETokenizer(Tokenizer):
    """Byte-level byte-pair encoding.

    Ids 0 to 255 are the bytes in GPT-2's order, then come the learnt tokens in the order of their merges, then the
    special tokens.

    Args:
      token_bytes: the bytes that each id stands for.
      merges: pairs of ids in the order in which they were learnt; joined, a pair's bytes are those of another token.
      special_tokens: the id of each special token.

    >>> tokenizer = BPETokenizer.train(["low lower lowest"], vocab_size=260)
    >>> [tokenizer.decode([i]) for i in tokenizer.encode("lower slow")]
    ['low', 'e', 'r', ' ', 's', 'low']
    """

    def __init__(
        self, token_bytes: Sequence[bytes], merges: Sequence[tuple[int, int]], special_tokens: Mapping[str, int]
    ):
        super().__init__(token_bytes, special_tokens)
        self.merges = tuple(merges)
        ids = {token: i for i, token in enumerate(token_bytes)}
        self._byte_symbols = [chr(ids[bytes([byte])]) for byte in range(256)]
        self._ranks = {chr(a) + chr(b): rank for rank, (a, b) in enumerate(self.merges)}
        for a, b in self.merges:
            if token_bytes[a] + token_bytes[b] not in ids:
                raise ValueError(
                    f"Tokens {a} and {b} are merged into {token_bytes[a] + token_bytes[b]}, which is no token."
                )
        self._joined = {chr(a) + chr(b): chr(ids[token_bytes[a] + token_bytes[b]]) for a, b in self.merges}
        self._cache = _Cache(self._join)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, special_tokens: Iterable[str] = ()) -> "BPETokenizer":
        """Learn tokens from texts until there are `vocab_size`, or no pair is left.

        The merges are those of `tokenizers.trainers.BpeTrainer` on the same texts, ties included.
        """
        special_tokens = special_after(0, special_tokens)
        if vocab_size < 256 + len(special_tokens):
            raise ValueError(
                f"A byte-level vocabulary needs at least {256 + len(special_tokens)} tokens, for 256 bytes and "
                f"{len(special_tokens)} special ones, but vocab_size is {vocab_size}."
            )
        counts = Counter()
        for text in texts:
            for piece in words(text):
                counts.update(piece)
        token_bytes, merges = learn_merges(counts, vocab_size - len(special_tokens))
        return cls(token_bytes, merges, special_after(len(token_bytes), special_tokens))

    def _encode(self, text):
        ids = self._cache.__getitem__
        return np.frombuffer(b"".join([b"".join(map(ids, piece)) for piece in words(text)]), np.int32).copy()

    def _join(self, word):
        """The ids of one word, as bytes of int32: the pair of lowest rank is joined, leftmost first, till none is."""
        symbols = "".join([self._byte_symbols[byte] for byte in word.encode("utf-8", "surrogateescape")])
        if len(symbols) > CACHED_LENGTH:
            return np.array(_join_long(symbols, self._ranks, self._joined), np.int32).tobytes()
        ranks, joined = self._ranks, self._joined
        while pairs := [pair for pair in map(add, symbols, symbols[1:]) if pair in ranks]:
            pair = min(pairs, key=ranks.__getitem__)
            symbols = symbols.replace(pair, joined[pair], 1)
        return symbols.encode("utf-32-le", "surrogatepass")

    def pipeline(self):
        """The pre-tokenizer, model and decoder of the `tokenizer.json`."""
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
        spelled = ["".join(BYTE_TO_CHARACTER[byte] for byte in token) for token in self.token_bytes]
        special = {i: spelling for spelling, i in self.special_tokens.items()}
        vocab = {special.get(i, token): i for i, token in enumerate(spelled) if token}
        model = {"type": "BPE", "vocab": vocab, "merges": [[spelled[a], spelled[b]] for a, b in self.merges]}
        return {"pre_tokenizer": byte_level, "decoder": byte_level, "model": model}


def learn_merges(counts: Mapping[str, int], size: int) -> tuple[list[bytes], list[tuple[int, int]]]:
    """The tokens, at most `size` of them, and the merges that a corpus with these word counts teaches.

    Each unique word is held once, with its count; `where` leads from a pair to the words that may hold it, so a merge
    touches these words alone. The heap is lazy: an entry whose count has fallen is put back when it comes up. Of pairs
    that are equally frequent the one with the lower ids wins.
    """
    token_bytes = [bytes([byte]) for byte in GPT2_ORDER]
    ids = {token: i for i, token in enumerate(token_bytes)}
    rank_of_byte = bytes(ids[bytes([byte])] for byte in range(256))
    symbols = [word.encode("utf-8", "surrogateescape").translate(rank_of_byte).decode("latin-1") for word in counts]
    weight = list(counts.values())

    pair_counts, where = {}, {}
    for i, word in enumerate(symbols):
        for pair in map(add, word, word[1:]):
            pair_counts[pair] = pair_counts.get(pair, 0) + weight[i]
            where.setdefault(pair, []).append(i)
    heap = [(-count, pair, where[pair]) for pair, count in pair_counts.items()]
    heapify(heap)
    merges = []
    while len(token_bytes) < size and heap:
        negative, pair, places = heappop(heap)
        count = pair_counts[pair]
        if -negative != count:
            heappush(heap, (-count, pair, places))
            continue
        if count < 1:
            break
        a, b = pair
        merges.append((ord(a), ord(b)))
        token = token_bytes[ord(a)] + token_bytes[ord(b)]
        if token not in ids:
            ids[token] = len(token_bytes)
            token_bytes.append(token)
        new = chr(ids[token])
        touched = {}
        for i in dict.fromkeys(places):
            word, n, end = symbols[i], weight[i], 0
            at = word.find(pair)
            while at >= 0:
                if at:
                    before = new if at == end else word[at - 1]
                    pair_counts[before + a] -= n
                    changed = before + new
                    pair_counts[changed] = pair_counts.get(changed, 0) + n
                    touched.setdefault(changed, []).append(i)
                end = at + 2
                after = word[end : end + 1]
                if after:
                    pair_counts[b + after] -= n
                    changed = new + after
                    pair_counts[changed] = pair_counts.get(changed, 0) + n
                    touched.setdefault(changed, []).append(i)
                at = word.find(pair, end)
            symbols[i] = word.replace(pair, new)  # at once, or a long word would be copied at each of its pairs
        for pair, places in touched.items():
            if pair_counts[pair] > 0:
                heappush(heap, (-pair_counts[pair], pair, places))
    return token_bytes, merges


def _join_long(symbols, ranks, joined):
    """The same as joining pair by pair, in a time that grows with the length alone: places wait in a bucket per rank.

    A joined token has its left part's place and leaves a gap (None) at its right part's; `left` and `right` skip gaps.
    """
    n = len(symbols)
    token, left, right = list(symbols), list(range(-1, n - 1)), list(range(1, n + 1))
    buckets = {}
    for place, pair in enumerate(map(add, symbols, symbols[1:])):
        if pair in ranks:
            buckets.setdefault(ranks[pair], []).append(place)
    pair_of_rank = {rank: pair for pair, rank in ranks.items()}
    heap = list(buckets)
    heapify(heap)
    while heap:
        rank = heappop(heap)
        pair = pair_of_rank[rank]
        waiting = sorted(buckets.pop(rank))
        for done, place in enumerate(waiting):
            after = right[place]
            if token[place] is None or after == n or token[place] + token[after] != pair:
                continue
            token[place], token[after] = joined[pair], None
            right[place] = right[after]
            if right[after] < n:
                left[right[after]] = place
            lowest = rank
            for start in (left[place], place):
                if start >= 0 and right[start] < n:
                    found = ranks.get(token[start] + token[right[start]])
                    if found is not None:
                        if found not in buckets:
                            buckets[found] = []
                            heappush(heap, found)
                        buckets[found].append(start)
                        lowest = min(lowest, found)
            if lowest < rank:
                buckets.setdefault(rank, []).extend(waiting[done + 1 :])
                heappush(heap, rank)
                break
    return [ord(symbol) for symbol in token if symbol is not None]


class _Cache(dict):
    """Word to ids, computed where missing and forgotten all at once when there are too many."""

    def __init__(self, compute):
        super().__init__()
        self._compute = compute

    def __missing__(self, word):
        ids = self._compute(word)
        if len(self) >= CACHED_WORDS:
            self.clear()
        if len(word) <= CACHED_LENGTH:
            self[word] = ids
        return ids
