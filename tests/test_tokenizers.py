"""Tokenizers lose nothing, agree with the textbook and with the `tokenizers` library, and forge no special token."""

import functools
import itertools
import json
import time

import numpy as np
import pytest
import tokenizers as hf
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm.data.tokenizers import END_OF_TEXT, BPETokenizer, ByteTokenizer, CharacterTokenizer, load
from minilm.data.tokenizers.bpe import learn_merges
from minilm.data.tokenizers.pretokenize import _ASCII_PATTERN, GPT2_PATTERN, words

TEXT = (
    "The cat sat on the mat; the cat's hat wasn't on the cat. We'll say they've sat, they're sitting, I'd sit.\n"
    "\n"
    "    def attend(self, queries, keys, values):\n        return softmax(queries @ keys.T) @ values  # 1234567890\n"
    "Ça dépend de l'été — naïve Straße, привет мир, 你好世界, 123 ½ ² 漢字 😀😀"
    " aaaaaaaaaaaaaaaaaaaa      \t\t\r\n\x1c\x85\u3000"
)


def bpe():
    return BPETokenizer.train([TEXT] * 3, vocab_size=420, special_tokens=["<|user|>", "<|user|>s"])


TOKENIZERS = {
    "byte": lambda: ByteTokenizer(["<|user|>"]),
    "character": lambda: CharacterTokenizer.train([TEXT], ["<|user|>"]),
    "bpe": bpe,
}
# Of all Unicode, and of what stands in the training text, with special tokens' spellings among it.
unicode_texts = st.text(max_size=30)
likely_texts = st.lists(
    st.one_of(
        st.sampled_from(
            [END_OF_TEXT, "<|user|>", "<|user|>s", "<|", "|>", "'ll", "'S", "'", " ", "  ", "\n", "<0x41>", "Ġ"]
        ),
        st.tuples(st.integers(0, len(TEXT)), st.integers(0, 12)).map(lambda cut: TEXT[cut[0] : sum(cut)]),
        st.text(max_size=3),
    ),
    max_size=8,
).map("".join)
texts = st.one_of(unicode_texts, likely_texts)


@pytest.fixture(params=TOKENIZERS, scope="module")
def tokenizer(request):
    return TOKENIZERS[request.param]()


@pytest.fixture(scope="module")
def theirs(tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(path)
    return hf.Tokenizer.from_file(str(path))


@given(text=texts)
def test_decoding_undoes_encoding_of_any_text(tokenizer, text):
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int32
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode(tokenizer.encode(text, allow_special=True)) == text


@given(data=st.binary(max_size=40))
def test_decoding_undoes_encoding_of_any_bytes(tokenizer, data):
    assert tokenizer.decode_bytes(tokenizer.encode_bytes(data)) == data


@given(text=texts)
def test_bytes_that_are_text_are_encoded_as_text(tokenizer, text):
    assert (tokenizer.encode_bytes(text.encode()) == tokenizer.encode(text)).all()


@given(text=texts)
def test_user_text_never_makes_a_special_token(tokenizer, text):
    assert not set(tokenizer.encode(text + END_OF_TEXT + text).tolist()) & set(tokenizer.special_tokens.values())


@given(left=texts, right=texts)
def test_texts_around_a_special_token_are_encoded_alone(tokenizer, left, right):
    plain = [text.replace("|>", "") for text in (left, right)]
    expected = [*tokenizer.encode(plain[0]), tokenizer.end_of_text, *tokenizer.encode(plain[1])]
    assert tokenizer.encode(END_OF_TEXT.join(plain), allow_special=True).tolist() == expected


@given(text=texts)
def test_the_tokenizers_library_reads_our_file_and_gives_the_same_ids(tokenizer, theirs, text):
    theirs.encode_special_tokens = False
    assert theirs.encode(text).ids == tokenizer.encode(text, allow_special=True).tolist()
    theirs.encode_special_tokens = True
    assert theirs.encode(text).ids == tokenizer.encode(text).tolist()
    assert theirs.decode(tokenizer.encode(text).tolist(), skip_special_tokens=False) == text
    assert theirs.get_vocab_size() == tokenizer.vocab_size


def code_points(stride):
    return [chr(c) for c in (*range(0x600), *range(0x600, 0x110000, stride)) if not 0xD800 <= c < 0xE000]


@pytest.mark.parametrize("stride", [83, pytest.param(1, marks=pytest.mark.slow)])
def test_every_code_point_has_the_ids_that_the_tokenizers_library_gives(tokenizer, theirs, stride):
    characters = code_points(stride)
    for start in range(0, len(characters), 1 << 14):
        text = "".join(f"a{c}1{c}" for c in characters[start : start + (1 << 14)])
        assert theirs.encode(text).ids == tokenizer.encode(text).tolist(), f"around U+{start * stride:04X}"


@pytest.mark.parametrize("stride", [83, pytest.param(1, marks=pytest.mark.slow)])
def test_every_code_point_is_cut_where_the_tokenizers_library_cuts(stride):
    byte_level = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
    characters = code_points(stride)
    for start in range(0, len(characters), 1 << 12):
        text = "".join(f"a{c}1{c}" for c in characters[start : start + (1 << 12)])
        lengths = [end - begin for _, (begin, end) in byte_level.pre_tokenize_str(text)]
        assert [len(word) for piece in words(text) for word in piece] == lengths, f"around U+{start * stride:04X}"


@given(text=texts)
def test_loading_gives_back_what_was_saved(tokenizer, tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "again.json"
    tokenizer.save(path)
    again = load(path)
    assert type(again) is type(tokenizer)
    assert again.special_tokens == tokenizer.special_tokens
    assert again.token_bytes == tokenizer.token_bytes
    assert (again.encode(text) == tokenizer.encode(text)).all()


@given(text=texts, data=st.binary(max_size=9))
def test_a_stream_says_what_decoding_says_and_never_half_a_character(tokenizer, text, data):
    stream, pieces = tokenizer.stream(), []
    for i in tokenizer.encode(text).tolist():
        pieces.append(stream.push(i))
        assert text.startswith("".join(pieces))
    assert "".join(pieces) == text
    damaged = tokenizer.encode_bytes(data).tolist()
    assert "".join([stream.push(i) for i in damaged] + [stream.flush()]) == tokenizer.decode(damaged)


def test_ids_out_of_range_are_named(tokenizer):
    for bad in (-1, tokenizer.vocab_size):
        with pytest.raises(ValueError, match=rf"from 0 to {tokenizer.vocab_size - 1}, but id {bad} came at place 1"):
            tokenizer.decode([0, bad])
    with pytest.raises(ValueError, match="integers, but float64 came"):
        tokenizer.decode([0.5])
    assert tokenizer.decode([]) == ""
    assert tokenizer.encode("").shape == (0,)


def test_a_lone_surrogate_is_refused_by_name_and_place(tokenizer):
    with pytest.raises(ValueError, match=r"lone surrogate U\+DC80 at place 2"):
        tokenizer.encode("ab\udc80")


@functools.cache
def trained_bpe():
    return bpe()


@given(text=texts)
def test_encoding_is_the_textbook_rule_join_the_pair_learnt_first(text):
    tokenizer = trained_bpe()
    table = {token: i for i, token in enumerate(tokenizer.token_bytes)}
    ranks = {tuple(pair): rank for rank, pair in reversed(list(enumerate(tokenizer.merges)))}
    expected = []
    for word in [word for piece in words(text) for word in piece]:
        ids = [table[bytes([byte])] for byte in word.encode()]
        while found := [(ranks[pair], i) for i, pair in enumerate(itertools.pairwise(ids)) if pair in ranks]:
            _, i = min(found)
            ids[i : i + 2] = [table[tokenizer.token_bytes[ids[i]] + tokenizer.token_bytes[ids[i + 1]]]]
        expected += ids
    assert tokenizer.encode(text).tolist() == expected


@settings(max_examples=200)
@given(st.sampled_from([3, 8, 30, 65, 150]), st.integers(0, 2**31 - 1))
def test_words_of_any_length_and_merges_of_any_order_follow_the_textbook(length, seed):
    rng = np.random.default_rng(seed)
    word = "".join(rng.choice(["a", "b"], length))
    tokens, merges = [bytes([byte]) for byte in range(256)], []
    for _ in range(
        60
    ):  # also merges that no training would learn, of which a later one makes an earlier one's token again
        letters = [97, 98, *range(256, len(tokens))]
        a, b = (int(rng.choice(letters)) for _ in range(2))
        if len(tokens[a] + tokens[b]) <= 5 and (a, b) not in merges:
            merges.append((a, b))
            if tokens[a] + tokens[b] not in tokens:
                tokens.append(tokens[a] + tokens[b])
    tokenizer = BPETokenizer(tokens, merges, {END_OF_TEXT: len(tokens)})
    ids = [ord(letter) for letter in word]
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    while found := [(ranks[pair], i) for i, pair in enumerate(itertools.pairwise(ids)) if pair in ranks]:
        _, i = min(found)
        ids[i : i + 2] = [tokens.index(tokens[ids[i]] + tokens[ids[i + 1]])]
    assert tokenizer.encode(word).tolist() == ids


@pytest.mark.parametrize("n", [1, 50])
def test_a_pair_learnt_earlier_comes_first_also_when_a_later_merge_brings_it_about(n):
    tokens = [*(bytes([byte]) for byte in range(256)), b"qr", b"pq", b"pqr", b"pqrp"]
    p, q, r = b"pqr"
    # The last merge makes "pqr" a second way; "pqr" and "p" were to be joined before that.
    merges = [(q, r), (p, q), (257, r), (258, p), (p, 256)]
    tokenizer = BPETokenizer(tokens, merges, {END_OF_TEXT: 260})
    assert tokenizer.encode("pqrpqr" * n).tolist() == [259, 256] * n


@given(st.lists(st.one_of(texts, st.text("ab ", max_size=40)), min_size=1, max_size=8), st.integers(257, 340))
def test_training_learns_the_merges_that_the_tokenizers_library_learns(corpus, vocab_size):
    ours = BPETokenizer.train(corpus, vocab_size)
    theirs = train_theirs(corpus, vocab_size - 1)
    alphabet = hf.pre_tokenizers.ByteLevel.alphabet()
    model = json.loads(theirs.to_str())["model"]
    mine = ours.pipeline()["model"]
    mine["vocab"].pop(END_OF_TEXT)
    assert len(alphabet) == 256
    assert mine["merges"] == model["merges"]
    assert mine["vocab"] == model["vocab"]


def train_theirs(corpus, vocab_size):
    theirs = hf.Tokenizer(hf.models.BPE())
    theirs.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = hf.pre_tokenizers.ByteLevel.alphabet()
    theirs.train_from_iterator(
        corpus, hf.trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    )
    return theirs


def test_of_equally_frequent_pairs_the_lower_ids_win():
    tokens, merges = learn_merges({"ba": 2, "ab": 2, "cd": 1}, 258)
    assert [tokens[a] + tokens[b] for a, b in merges] == [b"ab", b"ba"]


def test_training_stops_when_no_pair_is_left():
    assert BPETokenizer.train(["ab"], vocab_size=1000).vocab_size == 256 + 1 + 1
    with pytest.raises(
        ValueError, match="at least 257 tokens, for 256 bytes and 1 special ones, but vocab_size is 256"
    ):
        BPETokenizer.train(["ab"], vocab_size=256)


@given(st.text(st.characters(max_codepoint=127), max_size=40))
def test_the_fast_pattern_cuts_ascii_as_the_general_one(text):
    assert _ASCII_PATTERN.findall(text) == GPT2_PATTERN.findall(text)


@given(st.lists(st.sampled_from(["a", "é", "'s", " ", "\n", "\x1c", "\u3000", "1", "."]), max_size=40).map("".join))
def test_cutting_piece_by_piece_cuts_alike(text):
    import minilm.data.tokenizers.pretokenize as pretokenize

    whole, pretokenize.PIECE = pretokenize.PIECE, 3
    try:
        assert [word for piece in words(text) for word in piece] == GPT2_PATTERN.findall(text)
    finally:
        pretokenize.PIECE = whole


@pytest.mark.parametrize("what", ["encoding", "training"])
def test_time_grows_with_the_length_of_a_word_and_not_its_square(what):
    tokenizer = trained_bpe()

    def seconds(text):
        start = time.process_time()
        tokenizer.encode(text) if what == "encoding" else BPETokenizer.train([text], 300)
        return time.process_time() - start

    for letters in ("a", "ab", "the cat"):
        short, long = (min(seconds((letters * n)[:n]) for _ in range(2)) for n in (20_000, 200_000))
        assert long < 30 * short + 0.05, letters


def test_gpt2s_own_file_is_read(tmp_path):
    ours = trained_bpe()
    theirs = train_theirs([TEXT], 300)
    theirs.add_special_tokens([END_OF_TEXT])
    theirs.post_processor = hf.processors.ByteLevel(trim_offsets=False)
    theirs.decoder = hf.decoders.ByteLevel()
    path = tmp_path / "tokenizer.json"
    theirs.save(str(path))
    contents = json.loads(path.read_text())
    contents["model"]["merges"] = [" ".join(pair) for pair in contents["model"]["merges"]]  # as older files write them
    path.write_text(json.dumps(contents))
    read = load(path)
    for text in (TEXT, TEXT + END_OF_TEXT):
        assert read.encode(text, allow_special=True).tolist() == theirs.encode(text).ids
    assert read.vocab_size == 301 != ours.vocab_size


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda c: c["model"].update(type="Unigram"), "its model is Unigram, where BPE was expected"),
        (lambda c: c["model"].update(ignore_merges=True), "sets ignore_merges"),
        (lambda c: c.update(normalizer={"type": "NFC"}), "it normalizes text"),
        (lambda c: c.update(pre_tokenizer={"type": "Metaspace"}), "its pre-tokenizer is Metaspace"),
        (lambda c: c["pre_tokenizer"].update(add_prefix_space=True), "adds a space before the text"),
        (lambda c: c["model"]["merges"].append(["t", "zz"]), "zz"),
        (lambda c: c.pop("model"), "no complete tokenizer.json"),
        (lambda c: c["model"].update(vocab={}), "vocabulary"),
    ],
)
def test_a_file_that_cannot_be_reproduced_is_refused_in_a_sentence(tmp_path, change, sentence):
    path = tmp_path / "tokenizer.json"
    trained_bpe().save(path)
    contents = json.loads(path.read_text())
    change(contents)
    path.write_text(json.dumps(contents))
    with pytest.raises(ValueError, match=sentence):
        load(path)


def test_a_missing_file_and_one_that_is_no_json_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no tokenizer at .*missing.json"):
        load(tmp_path / "missing.json")
    (tmp_path / "bad.json").write_bytes(b"\xff{")
    with pytest.raises(ValueError, match=r"bad.json is no tokenizer.json"):
        load(tmp_path / "bad.json")
    with pytest.raises(ValueError, match="at least two characters"):
        ByteTokenizer(["~"])
