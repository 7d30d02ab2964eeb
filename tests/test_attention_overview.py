"""Every variant in one line says what the tables say: at which length, and in which setting."""

import itertools

from benchmarks.attention import overview, page
from tests.test_attention_report import cell, row


def cells(variant, task, found, **more):
    """A setting at three rates, of which the first is the best; what its seeds find there, accuracy or bits."""
    for seed, rate in itertools.product(range(len(found)), (0.01, 0.1, 1.0)):
        best, value = rate == 0.01, found[seed]
        right = {"accuracy": value * best, "transfer": {"near": value / 2, "far": value / 4}}
        learnt = {"bits_per_byte": value + (not best)} if task == "lm" else right | {"chance": CHANCE}
        yield cell(variant, task, seed=seed, learning_rate=rate, **learnt | more)


CHANCE = {"token": 0.1, "value": 0.2}
ROWS = [
    *(row(name, t, 1e-3 * t, kind="mixer") for name in ("mha", "gla", "mla") for t in (64, 256)),
    row("mha", 4096, 9.0, kind="mixer"),
    row("window:width=2", 256, 9.0, kind="mixer"),
    row("mha", 256, 2.0, mode="fwdbwd", kind="mixer"),
    *(row("gla", t, 4e-3 * t, mode="decode", benchmark="decode", kind="mixer") for t in (256, 512)),
]
QUALITY = [
    *cells("gla", "mqar", (0.25, 0.75, 0.8)),
    *cells("gla:convolution=3", "mqar", (0.75, 0.8, 1.0)),
    *cells("mha", "mqar", (0.5, 0.5, 0.5)),
    *cells("mla", "mqar", (1.0, 1.0, 1.0), match={"what": "state", "like": "mha"}),
    *cells("mla", "mqar", (1.0,)),
    *cells("mha", "induction", (1.0, 1.0, 1.0)),
    *cells("mha", "lm", (1.5, 2.0, 2.5)),
    *cells("mha:convolution=3", "lm", (1.5, 2.0, 2.8)),
]


def test_a_line_holds_the_cost_at_the_usual_length_and_the_setting_that_learnt_most():
    says, table = overview.blocks(ROWS, QUALITY)
    head, _, *lines = ([text.strip() for text in line.split("|")[1:-1]] for line in table.splitlines())
    assert head == [
        "variant", "error", "ms forward, 256", "ms with backward, 256", "ms a token, 512", "MB held, 512",
        "recalled, mqar", "far", "setting", "bits",
    ]  # fmt: skip
    assert lines == [
        ["mha", "1e-03", "256", "2e+03", "–", "–", "0.500", "0.125", "as usual", "2.000"],
        ["mla", "1e-03", "256", "–", "–", "–", "–", "–", "–", "–"],
        ["gla", "1e-03", "256", "–", "1.02e+03", "1", "0.850", "0.212", "convolution=3", "–"],
    ]
    elsewhere = [row(name, 256, 1.0, mode="fwdbwd", kind="mixer") | {"dtype": "bfloat16"} for name in ("mla", "gla")]
    elsewhere += [row(f"window:width={n}", 256, 1.0, kind="mixer") | {"dtype": "bfloat16"} for n in range(9)]
    assert overview.blocks(ROWS + elsewhere, QUALITY) == [says, table], "of one line, all is of one dtype"
    assert says.endswith("Costs are those of float32 on cpu.")
    text = page.markdown(ROWS, QUALITY, {}, "a command")
    assert text.index(says) < text.index(table) < text.index("## Mixers")


def test_there_is_no_line_where_only_costs_or_only_lessons_are_known():
    assert overview.blocks(ROWS, []) == overview.blocks([], QUALITY) == []
    assert "in a line" not in page.markdown(ROWS, [], {}, "a command")
