"""Every row of the table under the same theorems, whatever attention it is; and what names and options mean."""

import functools
import inspect
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from minilm import variants
from minilm.layers.attention.core import Dense
from minilm.layers.attention.masks import Causal, SlidingWindow
from minilm.layers.attention.multi_head import softmax_mixer
from minilm.precision import is_weight
from minilm.shapes import Mixer, Tokens
from minilm.variants import VARIANTS
from tests import mixers
from tests.strategies import seeds
from tests.tolerances import FORMULA, assert_close

D, HEADS, T = 24, 4, mixers.T
# What a row has to be told to differ, within eleven tokens, from attention to all of them.
OPTIONS = {
    "window": "width=3",
    "dilated": "width=2,rate=2",
    "longformer": "width=2,first=1",
    "big-bird": "size=2,blocks=6,random=2",
    "chunked": "size=4",
    "streaming": "sinks=2,width=3",
    "soft-cap": "cap=1.5",
    "cosine": "length=5",
    "sigmoid": "length=5",
    "top-k": "n=2",
    "mla": "latent=5,rotary=2",
    "t5": "buckets=6",
    "yarn": "trained=9",
    "llama3": "trained=64",
    "linear": "chunk=4",
    "based": "width=3,chunk=4",
    "performer": "features=5,chunk=4",
    "retnet": "chunk=4",
    "mamba2": "state=3,chunk=4",
    "delta-net": "chunk=4",
    "gated-delta-net": "chunk=4",
    "moba": "size=2,n=1",
    "nsa": "groups=2,length=4,stride=2,size=2,n=4,width=3",
}
CHOOSING = {"top-k", "moba", "nsa"}  # a choice jumps, and differences would jump with it
# The theorems that cost most are proven in the quick suite for one row of each kind alone, and for all with `slow`.
KINDS = ("gqa", "streaming", "sigmoid", "mla", "rotary", "performer", "gated-delta-net", "nsa")
DTYPES = [jnp.bfloat16, jnp.float32, jnp.float64]
few = settings(max_examples=3)


@pytest.fixture(scope="module", params=VARIANTS)
def row(request):
    """One row after the other through all theorems, so that each is compiled once."""
    return subject(request.param)


@functools.lru_cache(maxsize=len(KINDS))
def subject(name):
    return mixers.subject(made(name), D)


def made(name):
    return variants.make(f"{name}:{OPTIONS[name]}" if name in OPTIONS else name, D, HEADS)


def costly(but=frozenset()):
    """All rows, of which those that are no kind's example are slow."""
    marks = {name: () if name in KINDS else pytest.mark.slow for name in VARIANTS if name not in but}
    return pytest.mark.parametrize("name", [pytest.param(name, marks=mark) for name, mark in marks.items()])


@few
@given(seed=seeds)
def test_no_output_depends_on_the_future(row, seed):
    mixers.assert_the_future_is_not_seen(row, seed)


@few
@given(seed=seeds)
def test_pieces_of_any_lengths_make_the_whole(row, seed):
    mixers.assert_pieces_make_the_whole(row, seed)


@few
@given(seed=seeds)
def test_padding_is_never_read(row, seed):
    mixers.assert_padding_is_never_read(row, seed)


def test_a_batch_is_one_by_one(row):
    mixers.assert_a_batch_is_one_by_one(row, 0, shared=True)


def test_an_output_has_the_dtype_of_its_input_and_a_state_keeps_its_own(row):
    mixers.assert_dtypes(row, (jnp.bfloat16, jnp.float32))


def test_what_decays_is_what_multiplies_and_is_named_so(row):
    """Beside the matrices w_*: biases, scales of norms, rates, positions, and maps that are not to fade."""
    kept = r"b|b_\w+|bias|scale|attend|table|[qk]_[12]|e|projection|shift|u|rate|log_rate|skip|convolution"
    for path, leaf in jax.tree.leaves_with_path(row.params):
        assert leaf.ndim >= 2 if is_weight(path) else re.fullmatch(kept, path[-1].name), path


@costly()
def test_tokens_one_by_one_make_the_whole(name):
    mixers.assert_tokens_make_the_whole(subject(name), 0)


@costly()
def test_a_batch_may_have_places_of_its_own_for_each_sequence(name):
    mixers.assert_a_batch_is_one_by_one(subject(name), 0, shared=False)


@costly()
def test_float32_is_as_good_as_float32_is(name):
    mixers.assert_precise_in_float32(subject(name))


@costly()
def test_gradients_are_finite_among_padding_and_the_slope_of_differences(name):
    mixers.assert_gradient(subject(name), 1, smooth=name not in CHOOSING)


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_inputs_and_weights_of_any_dtypes_keep_it(name):
    mixers.assert_dtypes(subject(name), *((w, x) for w in DTYPES for x in DTYPES[DTYPES.index(w) :]))


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_the_laws_hold_at_any_length(name):
    mixers.laws_hold(subject(name), smooth=name not in CHOOSING)


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_compiled_or_not_it_is_the_same(name):
    s, x = subject(name), jnp.asarray(np.random.default_rng(0).standard_normal((T, D)))
    assert_close(s.whole(x), s.mixer.apply(s.params, x, Tokens.arange(T)), FORMULA)


# ── the table ────────────────────────────────────────────────────────────────────────────────────────────────────────


def made_up(d, heads, width=2, name="none"):
    """A row that is not minilm's: a window that knows no positions."""
    return softmax_mixer(Dense(Causal() & SlidingWindow(width)), g=heads, r=1, k=d // heads, v=3, bias=name != "none")


def decaying(d, heads, rate=0.5, n=1.5, flag=True, size=2):
    """Another, whose options are named as minilm's and mean something else."""
    return made_up(d, heads, name=f"{rate}, {n}, {flag}, {size}")


def talkative(d, heads, kind="value"):
    """One that cannot be made, and says so in two lines."""
    raise (TypeError if kind == "type" else ValueError)("Sizes differ:\n  3 beside 4.")


def test_every_row_says_in_a_line_what_it_is_and_from_which_paper():
    for name, entry in VARIANTS.items():
        assert re.fullmatch(r"[A-Z].{20,119}\.", entry.about), name
        assert re.fullmatch(r"arXiv:\d{4}\.\d{5}|Llama 4", entry.paper), name


def test_a_row_whose_outputs_know_no_order_says_that_it_has_no_positions(row, request):
    """Of three tokens the first two change places, which the third then sees as before."""
    about = VARIANTS[request.node.callspec.params["row"]].about
    x = np.random.default_rng(0).standard_normal((T, D))
    y, swapped = row.whole(x)[2], row.whole(x[[1, 0, *range(2, T)]])[2]
    if re.search(r"no positions( at all|\.)", about, re.IGNORECASE):
        assert_close(swapped, y, FORMULA)
    else:
        with pytest.raises(AssertionError, match="off by"):
            assert_close(swapped, y, FORMULA)


def test_a_row_of_a_published_name_says_where_it_is_not_as_published():
    differing = {"mha": "not the paper's sinusoids", "rwkv6": "token shift", "t5": "beside scores with a root"}
    for name, words in differing.items():
        assert words in VARIANTS[name].about


def test_the_readme_says_what_rows_leave_unsaid():
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    assert "Where a row says nothing else, positions are rotary" in readme
    assert "`init_state(params, size, dtype=None)` is asked without a dtype" in readme


def test_rotary_is_multi_head_attention_by_another_name_and_says_so():
    mixers.assert_one_mixer(made("rotary"), made("mha"), D)
    assert "`mha`" in VARIANTS["rotary"].about


def test_big_bird_takes_no_text_beyond_its_blocks():
    mixer = variants.make("big-bird:size=2,blocks=3,random=1", D, HEADS)
    params = mixer.init(jax.random.key(0), D)
    assert mixer.apply(params, jnp.ones((2, 6, D)), Tokens.arange(6)).shape == (2, 6, D)
    assert mixer.init_state(params, 6).k.shape[1] == 6
    sentence = "7 tokens are more than the 6 that can be read: big-bird draws lots among 3 blocks of 2, so give it more"
    for longer in (
        lambda: mixer.apply(params, jnp.ones((2, 7, D)), Tokens.arange(7)),
        lambda: mixer.init_state(params, 7),
    ):
        with pytest.raises(ValueError, match=sentence):
            longer()


def test_no_row_takes_the_name_of_another():
    sources = [inspect.getsource(module) for module in (variants.softmax, variants.positions, variants.state)]
    rows = re.findall(r"^@variant\(", "\n".join([*sources, inspect.getsource(variants.selection)]), re.MULTILINE)
    assert len(rows) == len(VARIANTS)
    assert set(OPTIONS) | CHOOSING | set(KINDS) <= set(VARIANTS)

    def rotary(d, heads):
        """Another."""

    with pytest.raises(ValueError, match="There is a variant 'rotary' already"):
        variants.variant("positions", paper="")(rotary)


def test_one_setting_is_one_record_which_jit_knows_again():
    for name in VARIANTS:
        assert made(name) is made(name)
        assert jax.tree.leaves(made(name)) == []
    traced = []
    init = jax.jit(lambda mixer, key: traced.append(mixer) or mixer.init(key, D))
    for name in ("mha", "gqa", "mha"):
        init(made(name), jax.random.key(0))
    assert traced == [made("mha"), made("gqa")]


def test_options_are_of_the_kind_of_their_defaults_and_anything_can_be_said_twice():
    assert variants.make("rotary:theta=500", D, HEADS) != variants.make("rotary", D, HEADS)
    assert variants.table.read("rotary:theta=500")[1] == {"theta": 500.0}
    assert variants.table.read("gqa:groups=2,convolution=4,initial=identity")[1] == {
        "groups": 2,
        "convolution": 4,
        "initial": "identity",
    }
    assert VARIANTS["moba"].options == {"size": 64, "n": 3}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_row_needs_to_be_told_nothing(name):
    mixer = variants.make(name, 64, 4)
    assert isinstance(mixer, Mixer)
    assert jax.tree.leaves(jax.eval_shape(lambda key: mixer.init(key, 64), jax.random.key(0)))


def test_a_row_of_another_module_joins_in():
    here = f"{__name__}:made_up"
    assert variants.make(f"{here}:width=3", D, HEADS).init(jax.random.key(0), D).w_v.shape == (D, HEADS, 3)
    assert variants.make(f"{here}:width=3", D, HEADS) is not variants.make(here, D, HEADS)
    assert variants.make(f"{here}:name=b", D, HEADS).init(jax.random.key(0), D).b_o is not None


def test_options_of_another_module_are_of_the_kind_of_their_defaults_whatever_they_are_called():
    here = f"{__name__}:decaying"
    told = variants.table.read(f"{here}:rate=0.25,n=-0.5,flag=False,size=0")[1]
    assert told == {"rate": 0.25, "n": -0.5, "flag": False, "size": 0}
    assert [type(value) for value in told.values()] == [float, float, bool, int]
    for text, flag in {"True": True, "true": True, "False": False, "false": False}.items():
        assert variants.table.read(f"{here}:flag={text}")[1] == {"flag": flag}
    assert isinstance(variants.make(f"{here}:size=0", D, HEADS), Mixer)


@pytest.mark.parametrize("kind", ["value", "type"])
def test_what_another_module_says_in_two_lines_is_told_in_one(kind):
    with pytest.raises(ValueError, match=r"Sizes differ: 3 beside 4\.") as refusal:
        variants.make(f"{__name__}:talkative:kind={kind}", D, HEADS)
    assert "\n" not in str(refusal.value)


def test_a_convolution_that_begins_as_the_identity_is_as_if_there_were_none():
    """Of every row, by the option; what such a mixer promises is proven in `test_convolution.py`."""
    for name in VARIANTS:
        before = ",".join(filter(None, (OPTIONS.get(name), "convolution=3")))
        assert made(name) is not variants.make(f"{name}:{before}", D, HEADS)
    without, x = subject("gla"), jnp.asarray(np.random.default_rng(0).standard_normal((2, T, D)))
    mixer = variants.make("gla:convolution=3,initial=identity", D, HEADS)
    params = mixer.init(jax.random.key(0), D)._replace(mixer=without.params)
    assert_close(mixer.apply(params, x, Tokens.arange(T)), without.apply(without.params, x, Tokens.arange(T)), FORMULA)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("gpa", r"There is no attention variant 'gpa', did you mean 'gqa'\? There are nope, alibi"),
        ("", r"There is no attention variant ''\. There are nope"),
        ("qwertyuiop:n=3", r"There is no attention variant 'qwertyuiop'\. There are nope"),
        ("gqa:heads=3", "gqa has no option 'heads=3': give name=value, of groups, convolution, initial"),
        ("gqa:groups", "gqa has no option 'groups': give name=value"),
        ("gqa:groups=two", "The option groups is 'two', and must be of the kind int"),
        ("window:width=2.5", "The option width is '2.5', and must be of the kind int"),
        ("rotary:theta=far", "The option theta is 'far', and must be of the kind float"),
        ("rotary:theta=nan", "The option theta is nan, and must be a finite number above 0"),
        ("yarn:factor=0", "The option factor is 0, and must be a finite number above 0"),
        ("yarn:trained=0", "The option trained is 0, and must be at least 1"),
        ("t5:buckets=0", "The option buckets is 0, and must be at least 1"),
        ("window:width=-99999999999", "The option width is -99999999999, and must be at least 1"),
        ("window:width=99999999999", "The option width is 99999999999, and must be below 2147483648"),
        ("mla:latent=-3", "The option latent is -3, and must be 0 or more"),
        ("moba:n=-1", "The option n is -1, and must be 0 or more"),
        ("big-bird:random=65", "of 64 blocks 65 were to be drawn: expected 0 to 64"),
        ("mamba2:fastest=0.5", "The option fastest is 0.5, and must be at least 1"),
        ("mamba2:fastest=inf", "The option fastest is inf, and must be a finite number above 0"),
        ("window:width=8,width=9", "window:width=8,width=9 gives the option width twice: give it once"),
        ("gqa:groups=3", "4 query heads cannot be shared out among 3 groups: choose a divisor of 4"),
        ("mha:convolution=-1", "A convolution is at least 1 wide and begins random or identity; told: -1"),
        ("mha:initial=zero", "begins random or identity; told: 0, 'zero'"),
        ("mha:convolution=2,initial=zero", "begins random or identity; told: 2, 'zero'"),
        ("no.module:attention", r"no\.module:attention was taken for a variant outside of minilm, .*No module"),
        ("minilm.shapes:attention", "minilm.shapes:attention was taken for .* has no attribute 'attention'"),
        ("tests.test_variants:decaying:flag=0", "The option flag is '0', and must be True or False"),
        ("tests.test_variants:decaying:size=0.5", "The option size is '0.5', and must be of the kind int"),
        ("tests.test_variants:made_up:size=3", "tests.test_variants:made_up has no option 'size=3': .* of width, name"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(text, sentence):
    with pytest.raises(ValueError, match=sentence):
        variants.make(text, D, HEADS)


def test_heads_that_are_no_pairs_are_refused_in_a_sentence():
    with pytest.raises(ValueError, match="pairs its heads, and 3 are odd: choose an even number"):
        variants.make("differential", D, 3)


def test_heads_that_do_not_divide_the_width_are_refused_in_a_sentence():
    for name in VARIANTS:
        with pytest.raises(ValueError, match="5 heads cannot share a width of 24: choose a number of heads that divid"):
            variants.make(name, D, 5)
