"""Holding documents out, so that near-duplicates never stand on both sides.

The standard library copies docstrings from module to module, books repeat their licence, the web repeats itself. A
model that is tested on what it has read looks better than it is. So documents that share long stretches are grouped
first, and a group is held out as a whole. Of the stretches of 64 bytes in what is held out of Python 3.11's prose, one
in 1,700 stands in the training text too (a ruled line), of those of 32 bytes one in 150: phrases, no copies.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

SHINGLE = 64  # bytes, a power of two: two documents that share this many in a row share words, not just a phrase
SAMPLE = 8  # one shingle in eight is kept, chosen by its hash and so alike in every document
MOST = 1 << 24  # shingles held at once; a corpus that has more, from some 130 MB on, is sampled more thinly
LEAST = 4  # shingles of each document, of the lowest hash, stay however thin the sample: copies have them in common
SHARED = 0.02  # of the smaller document's shingles: from here on two documents are near-duplicates
NEIGHBOURS = 16  # documents with the same shingle that are compared with each other
BASE = 0x9E3779B97F4A7C15  # an odd number of 64 bits that look random


def held_out(documents: Sequence[str], fraction: float = 0.1, seed: int = 0) -> np.ndarray:
    """Which documents to hold out: `(len(documents),)` bool.

    Groups of near-duplicates are ordered by a hash of their content and the seed, and held out in this order while they
    fit into `fraction` of all characters. So the choice doesn't depend on the documents' order, and a large group
    stays in training.

    Args:
      documents: the texts.
      fraction: of all characters, to be held out at most (but one group is, whatever its size).
      seed: another seed holds other groups out.
    Raises:
      ValueError: where all documents are near-duplicates of each other, or there is but one.

    >>> held_out(["one document", "another one", "a third"], fraction=0.4).sum().item()
    1
    """
    if not 0 < fraction < 1:
        raise ValueError(f"The held-out fraction must lie between 0 and 1, but is {fraction}.")
    group = near_duplicates(documents)
    _, group = np.unique(group, return_inverse=True)
    if group.max(initial=0) < 1:
        raise ValueError(
            f"Nothing can be held out: the {len(documents)} document(s) are one, or near-duplicates of each "
            "other. Give more text: of one file some hundred characters make a document, of several each file is one."
        )
    lengths, keys = np.array([(len(document), _content_hash(document, seed)) for document in documents], np.uint64).T
    members = dict(enumerate(np.split(np.argsort(group, kind="stable"), np.bincount(group).cumsum()[:-1])))
    order = sorted(members, key=lambda g: keys[members[g]].min())
    chosen, room = np.zeros(len(documents), bool), fraction * lengths.sum()
    for g in order:
        size = lengths[members[g]].sum()
        if size <= room:
            chosen[members[g]], room = True, room - size
    if not chosen.any():
        chosen[members[min(order, key=lambda g: lengths[members[g]].sum())]] = True
    return chosen


def near_duplicates(documents: Sequence[str]) -> np.ndarray:
    """A group number for each document, the same for documents that share many shingles, directly or through others.

    A shingle is a stretch of 64 bytes, letters in lower case and white space of one kind. Documents are joined where
    they share at least 2% of the smaller one's sampled shingles, and at least two, or are the same.
    """
    sampled = _sampled(documents)
    sizes = np.array([len(s) for s in sampled], int)
    shingles, owners = np.concatenate([*sampled, np.zeros(0, np.uint64)]), np.repeat(np.arange(len(documents)), sizes)
    order = np.argsort(shingles, kind="stable")
    shingles, owners = shingles[order], owners[order]
    pairs = []
    for lag in range(1, NEIGHBOURS + 1):
        same = shingles[lag:] == shingles[:-lag]
        pairs.append(owners[:-lag][same] * len(documents) + owners[lag:][same])
    pairs, shared = np.unique(np.concatenate(pairs), return_counts=True)
    left, right = pairs // max(len(documents), 1), pairs % max(len(documents), 1)
    alike = shared >= np.maximum(2, SHARED * np.minimum(sizes[left], sizes[right]))
    _, first, content = np.unique([_content_hash(d, 0) for d in documents], return_index=True, return_inverse=True)
    left, right = np.append(left[alike], first[content]), np.append(right[alike], np.arange(len(documents)))
    return _components(len(documents), left.tolist(), right.tolist())


def _sampled(documents):
    """The sampled shingles of each document: one in `SAMPLE`, halved as often as it takes to have at most `MOST`."""
    sampled, sample, held = [], SAMPLE, 0
    for document in documents:
        sampled.append(_thinned(_shingles(document), sample))
        held += len(sampled[-1])
        while held > MOST + LEAST * len(sampled):
            sample *= 2
            sampled = [_thinned(hashes, sample) for hashes in sampled]
            held = sum(map(len, sampled))
    return sampled


def _thinned(hashes, sample):
    stays = hashes % np.uint64(sample) == 0
    stays[:LEAST] = True
    return hashes[stays]


def _shingles(document):
    r"""The sampled shingles of a document, as hashes: polynomials in B over bytes, each from two of half its length.

    $$ H_{2w}[i] = H_w[i] B^w + H_w[i + w] $$
    """
    text = " ".join(document.lower().split()).encode("utf-8", "replace")
    h, power, width = np.frombuffer(text, np.uint8).astype(np.uint64), BASE, 1
    while width < SHINGLE and len(h) > width:
        h = h[:-width] * np.uint64(power) + h[width:]
        power, width = power * power % 2**64, 2 * width
    h ^= h >> np.uint64(29)
    h *= np.uint64(BASE)
    h ^= h >> np.uint64(32)
    return np.unique(h[h % np.uint64(SAMPLE) == 0])


def _components(n, left, right):
    """The connected components of a graph, by union and find."""
    parent = list(range(n))

    def root(i):
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    for a, b in zip(left, right, strict=True):
        parent[max(root(a), root(b))] = min(root(a), root(b))
    return np.array([root(i) for i in range(n)], int)


def _content_hash(document, seed):
    digest = hashlib.blake2b(document.encode("utf-8", "replace"), digest_size=8, salt=seed.to_bytes(8, "little"))
    return int.from_bytes(digest.digest(), "little")
