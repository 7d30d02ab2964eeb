"""What generation owes its caller: the model's own tokens, whatever the batch, the chunks and the calls."""

import codecs
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm import generation
from minilm.data.tokenizers.byte import ByteTokenizer
from minilm.generation import TextStream
from minilm.sampling import GREEDY, Sampler
from tests import toy_model
from tests.strategies import keys, seeds

CONFIG = toy_model.Config()
N, SIZE = CONFIG.vocab_size, CONFIG.context_length
models = st.builds(toy_model.init, seeds, st.just(CONFIG))
prompts = st.lists(st.integers(0, N - 1), min_size=1, max_size=SIZE - 1)
batches = st.lists(prompts, min_size=3, max_size=3)
WARM = Sampler(temperature=0.9, top_k=5, top_p=0.95, min_p=0.01, repetition_penalty=1.2)


def generate(params, prompts, n=9, **options):
    return [
        row.tolist() for row in generation.generate(toy_model, params, CONFIG, prompts, max_new_tokens=n, **options)
    ]


def naive_greedy(params, prompt, n, end_token=None):
    """The definition: read everything again for each token."""
    tokens = list(prompt)
    while len(tokens) < min(len(prompt) + n, SIZE):
        tokens.append(int(np.argmax(toy_model.next_logits(params, tokens))))
        if tokens[-1] == end_token:
            return tokens[len(prompt) : -1]
    return tokens[len(prompt) :]


@given(models, prompts, st.integers(1, SIZE + 5))
def test_greedy_generation_is_the_argmax_of_the_whole_text_again_and_again(params, prompt, n):
    assert generate(params, [prompt], n) == [naive_greedy(params, prompt, n)]


@given(models, batches, st.integers(0, N - 1))
def test_a_ragged_batch_equals_one_by_one(params, batch, end_token):
    expected = [naive_greedy(params, prompt, 9, end_token) for prompt in batch]
    assert generate(params, batch, end_token=end_token) == expected


@given(models, batches, keys())
def test_a_ragged_batch_draws_what_each_prompt_draws_alone_with_its_key(params, batch, key):
    row_keys = jax.random.split(key, 3)
    alone = [generate(params, [p], sampler=WARM, key=row_keys[i : i + 1])[0] for i, p in enumerate(batch)]
    assert generate(params, batch, sampler=WARM, key=row_keys) == alone


@given(models, prompts, keys())
def test_the_same_key_draws_the_same_tokens_streamed_or_at_once(params, prompt, key):
    options = {"max_new_tokens": 9, "sampler": WARM, "key": key, "end_token": 2}
    streamed = list(generation.stream(toy_model, params, CONFIG, prompt, **options))
    assert streamed == generate(params, [prompt], sampler=WARM, key=key, end_token=2)[0]
    assert streamed == generate(params, [prompt], sampler=WARM, key=key, end_token=2)[0]


@given(models, prompts, st.lists(st.integers(1, 4), min_size=9, max_size=9))
def test_how_the_loop_is_cut_into_calls_changes_nothing(params, prompt, steps):
    sampler = generation.check_draw(WARM, jax.random.key(1))
    progress = generation.start(toy_model, params, CONFIG, [prompt], max_new_tokens=9, key=jax.random.key(1))
    for n in steps:
        progress = generation.advance(toy_model, CONFIG, params, sampler, np.int32(-1), progress, n)
    new = np.asarray(progress.tokens[0, len(prompt) : int(progress.length[0])]).tolist()
    assert new == generate(params, [prompt], sampler=WARM, key=jax.random.key(1))[0]


def test_a_call_makes_as_many_steps_as_it_is_told():
    params, lengths = toy_model.init(0, CONFIG), []
    progress = generation.start(toy_model, params, CONFIG, [[1, 2]], max_new_tokens=9)
    for steps in (3, 0, 4):
        progress = generation.advance(toy_model, CONFIG, params, GREEDY, np.int32(-1), progress, steps)
        lengths.append(int(progress.length[0]))
    assert lengths == [5, 5, 9]


def test_a_prompt_is_read_in_chunks_of_any_size():
    params, prompt = toy_model.init(0, CONFIG), (list(range(N)) * 4)[: SIZE - 1]
    expected = generate(params, [prompt])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generation, "CHUNK", 5)
        assert generate(params, [prompt]) == expected


def test_different_rows_of_a_batch_draw_differently():
    params = toy_model.init(0, CONFIG, scale=0.1)
    rows = generate(params, [[1, 2]] * 3, n=20, sampler=Sampler(), key=jax.random.key(0))
    assert len({tuple(row) for row in rows}) == 3


def test_every_place_draws_anew():
    params = toy_model.init(0, CONFIG)._replace(w_o=jnp.zeros((5, N)))
    [row] = generate(params, [[1]], n=SIZE, sampler=Sampler(), key=jax.random.key(0))
    assert len(set(row)) > 1


def test_the_repetition_penalty_writes_every_token_once_before_any_twice():
    class Constant:
        @staticmethod
        def init_state(params, size, *, config):
            return jnp.zeros(())

        @staticmethod
        def step(params, state, tokens, position, *, config):
            return state, jnp.broadcast_to(params, (len(tokens), len(params)))

    logits = jnp.array([3.0, 9.0, 4.0, 8.0, 5.0, 7.0, 6.0])
    sampler = Sampler(temperature=0.0, repetition_penalty=1e6)
    [row] = generation.generate(Constant, logits, CONFIG, [[1, 3]], max_new_tokens=5, sampler=sampler)
    assert row.tolist() == [5, 6, 4, 2, 0]


def test_one_compilation_serves_every_length_sampler_key_and_number_of_tokens():
    params = toy_model.init(3, CONFIG)
    model = type("Model", (), {"init_state": toy_model.init_state, "step": staticmethod(toy_model.step)})
    toy_model.TRACES.clear()
    for length, n, sampler in [(1, 1, GREEDY), (5, 9, WARM), (2, 30, Sampler(0.5)), (SIZE - 1, 3, GREEDY)]:
        prompt = list(range(7)) * 4
        options = {"max_new_tokens": n, "sampler": sampler, "key": jax.random.key(n), "end_token": n}
        generation.generate(model, params, CONFIG, [prompt[:length]], **options)
        list(generation.stream(model, params, CONFIG, prompt[:length], **options))
    chunk = min(generation.CHUNK, SIZE)
    assert sorted(set(toy_model.TRACES)) == [1, chunk]
    # A loop's body may be traced twice while its types settle, but never again for another prompt.
    assert toy_model.TRACES.count(chunk) == 1
    assert toy_model.TRACES.count(1) <= 2


@settings(max_examples=10)
@given(models, prompts, st.integers(1, 6))
def test_prompts_are_read_in_chunks_of_any_size_alike(params, prompt, chunk):
    tokens = np.zeros((1, SIZE), np.int32)
    tokens[0, : len(prompt)] = prompt
    length, saved = np.array([len(prompt)], np.int32), generation.CHUNK
    whole = generation.read_prompts(toy_model, CONFIG, params, tokens, length)
    try:
        generation.CHUNK = chunk
        parts = generation.read_prompts(toy_model, CONFIG, params, tokens, length)
    finally:
        generation.CHUNK = saved
    np.testing.assert_array_equal(whole, parts)


# ── why it ends ──────────────────────────────────────────────────────────────────────────────────────────────────────


def reason(generator):
    while True:
        try:
            next(generator)
        except StopIteration as end:
            return end.value


def test_the_reason_for_the_end_is_told():
    params = toy_model.init(1, CONFIG)
    first = naive_greedy(params, [1], 1)[0]

    def stream(**options):
        return reason(generation.stream(toy_model, params, CONFIG, [1], **options))

    assert stream(max_new_tokens=4) == "length"
    assert stream(max_new_tokens=99) == "context"
    assert stream(max_new_tokens=SIZE - 1) == "length"
    assert stream(max_new_tokens=4, end_token=first) == "end"


# ── text ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

TEXT = toy_model.Config(vocab_size=257, context_length=40)
tokenizer = ByteTokenizer()
alphabet = st.text("abé🙂", max_size=12)
stops = st.lists(st.text("abé", min_size=1, max_size=3), max_size=3)


def cut(text, stops):
    """Character by character: the text before the stop string that is complete first, the longest of several."""
    for end in range(len(text) + 1):
        lengths = [len(stop) for stop in stops if text[:end].endswith(stop)]
        if lengths:
            return text[: end - max(lengths)]
    return text


class Pieces:
    """A tokenizer whose ids are whole pieces of bytes."""

    def __init__(self, pieces):
        self.pieces = pieces

    def stream(self):
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        pieces = self.pieces

        class Stream:
            def push(self, token):
                return decoder.decode(pieces[token])

            def flush(self):
                return decoder.decode(b"", final=True)

        return Stream()


@given(alphabet, stops, st.lists(st.integers(0, 40), max_size=6))
def test_text_is_cut_at_the_first_complete_stop_string_however_tokens_lie(text, stops, borders):
    data = text.encode()
    places = sorted({0, len(data), *(b for b in borders if b < len(data))})
    pieces = [data[a:b] for a, b in pairwise(places)]
    stream = TextStream(Pieces(pieces), stops)
    emitted = "".join(stream.push(i) for i in range(len(pieces))) + stream.flush()
    assert emitted == cut(text, stops)
    assert stream.stopped == any(stop in text for stop in stops)


@given(alphabet, stops)
def test_streamed_text_is_whole_characters_and_a_prefix_of_the_result(text, stops):
    stream, emitted = TextStream(tokenizer, stops), ""
    for byte in text.encode():
        emitted += stream.push(byte)
        assert cut(text, stops).startswith(emitted)


@pytest.mark.parametrize("stop", [[], ["a", chr(7), "\x1b"]], ids=["to the end", "stop strings"])
@settings(max_examples=10)
@given(st.builds(toy_model.init, seeds, st.just(TEXT)), st.lists(alphabet, min_size=2, max_size=2), keys())
def test_a_batch_of_texts_equals_the_streamed_texts(stop, params, prompts, key):
    row_keys = jax.random.split(key, 2)
    options = {"max_new_tokens": 30, "sampler": Sampler(0.8), "stop": stop}
    if stop:  # then bytes of ASCII are made far likelier, so that it occurs; else texts end within a character
        params = params._replace(w_o=params.w_o.at[:, 128:].set(0.0))
    fitting = [prompt[:6] for prompt in prompts]
    batch = generation.generate_text(toy_model, params, TEXT, tokenizer, fitting, key=row_keys, **options)
    for i, prompt in enumerate(fitting):
        pieces = generation.stream_text(toy_model, params, TEXT, tokenizer, prompt, key=row_keys[i : i + 1], **options)
        assert batch[i] == "".join(pieces)


def test_an_empty_text_starts_after_the_end_of_text_token():
    assert generation.encode_prompt(tokenizer, "").tolist() == [256]
    assert generation.encode_prompt(tokenizer, "a").tolist() == [97]


def test_more_tokens_than_a_machine_counts_are_as_many_as_the_context_holds():
    def generate_text(n):
        params = toy_model.init(0, TEXT)
        return generation.generate_text(toy_model, params, TEXT, tokenizer, ["A"], max_new_tokens=n)

    params = toy_model.init(0, CONFIG)
    assert generate(params, [[1]], 10**30) == generate(params, [[1]], SIZE)
    assert [*generation.stream(toy_model, params, CONFIG, [1], max_new_tokens=10**30)] in generate(params, [[1]], SIZE)
    assert generate_text(10**30) == generate_text(TEXT.context_length)


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("prompts", "sentence"),
    [
        ([], "There is nothing to continue: give at least one prompt"),
        ([[]], "The prompt has no tokens: begin with the end-of-text token"),
        ([[1], []], "Prompt 2 of 2 has no tokens"),
        ([[7]], "The prompt holds the token id 7, and this model knows ids from 0 to 6"),
        ([[3, -1]], "holds the token id -1"),
        ([[0.5]], "must be a list of token ids, which are whole numbers, and holds float64"),
        ([[1] * SIZE], "has 24 tokens, and the model's context of 24 .* shorten it to 23 tokens or fewer"),
    ],
)
def test_a_prompt_that_cannot_be_continued_is_refused_in_a_sentence(prompts, sentence):
    with pytest.raises(ValueError, match=sentence):
        generate(toy_model.init(0, CONFIG), prompts)


def test_senseless_requests_are_refused_in_a_sentence():
    params = toy_model.init(0, CONFIG)
    with pytest.raises(ValueError, match="max_new_tokens must be at least 1, and is 0"):
        generate(params, [[1]], 0)
    with pytest.raises(ValueError, match=r"Drawing at temperature 0\.7 needs a random key"):
        generate(params, [[1]], sampler=Sampler(0.7))
    for key in (0, jax.random.PRNGKey(0), jax.random.split(jax.random.key(0), 3)):
        with pytest.raises(ValueError, match=r"The key must be one of jax\.random\.key, or 2, one for each prompt"):
            generate(params, [[1], [2]], sampler=Sampler(0.7), key=key)
    with pytest.raises(TypeError, match="give a list of them, and not a string, 'abc'"):
        generation.generate_text(toy_model, params, CONFIG, tokenizer, "abc", max_new_tokens=1)
    with pytest.raises(ValueError, match="Stop strings come as a list of strings, none of them empty"):
        TextStream(tokenizer, [""])
    with pytest.raises(ValueError, match="Stop strings come as a list"):
        TextStream(tokenizer, "END")
