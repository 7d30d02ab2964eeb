"""The quality benchmark measures what it says, says all that decides it, and goes on where it stopped."""

import json
import math
from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest

from benchmarks import measure
from benchmarks.attention import __main__ as command
from benchmarks.attention import quality, quality_cell, quality_plots, quality_sizes, quality_views
from benchmarks.attention.quality_tasks import TASKS, beyond, setting
from minilm.data.recall import MQAR, Induction, SelectiveCopy, spread
from minilm.data.tokenizers import ByteTokenizer
from minilm.models import mixer_lm
from tests.tolerances import MODEL, REDUCTION, SAMPLING, assert_close

TINY = "mqar:vocab_size=14,length=12,pairs=3,rows=4,d=8,layers=1"
SMALL = mixer_lm.Config(
    vocab_size=14, context_length=12, n_layers=2, n_heads=2, d_model=8, mixer="mha", feed_forward=False
)
ASKED = {"schema", "mode", "task", "sizes", "variant", "options", "match", "seed", "learning_rate", "steps"}
ASKED |= {"evaluated_every", "early_stop"}
FOUND = {"status", "reason", "steps_run", "curve", "accuracy", "steps_to_99", "transfer", "chance", "bits_per_byte"}
FOUND |= {"parameters", "state_bytes", "convolution", "matched", "cpu_seconds_a_step", "cpu_seconds", "environment"}
FOUND |= {"within_reach"}


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """The benchmark without pinning, and its rows."""
    monkeypatch.setattr(measure, "pin", lambda core: None)
    monkeypatch.setattr("minilm.allocator.tune", lambda: None)
    file = tmp_path / "deeper/quality.jsonl"

    def run(*arguments):
        return command.main(["quality", *arguments, "--out", str(file)]), quality.rows_of(file)

    return run


def test_a_row_says_all_that_decides_it_and_a_second_run_adds_nothing(bench, capsys):
    wanted = ("--tasks", TINY, "--steps", "20", "--every", "10", "--variants", "window:width=4", "--rates", "1e-2")
    code, rows = bench(*wanted)
    assert (code, len(rows)) == (0, 1)
    (row,) = rows
    assert set(row) == ASKED | FOUND
    data, model = (
        {"vocab_size": 14, "length": 12, "pairs": 3},
        {"d": 8, "heads": 2, "layers": 1, "embedding": 0.05, "branches": 0.1},
    )
    assert row["sizes"] == data | {"rows": 4} | model
    assert row["options"] == {"width": 4, "convolution": 0, "initial": "random"}
    assert [step for step, _ in row["curve"]] == [10, 20]
    assert row["chance"] == {"token": round(1 / 14, 5), "value": round(1 / 3, 5)}
    assert "knows the values and not the binding 0.333" in capsys.readouterr().out
    assert bench(*wanted)[1] == rows
    more = bench(*wanted, "--seeds", "0", "1")[1]
    assert (more[0], more[1]["seed"], len(more)) == (row, 1, 2)


def test_a_language_model_is_measured_in_bits_per_byte_of_text_that_it_did_not_read(bench, tmp_path):
    text = tmp_path / "text.txt"
    letters = np.random.default_rng(0).choice([*"abcdef "], (200, 400))
    text.write_text("\n\n".join(map("".join, letters)))
    task = f"lm:corpus={text},tokenizer=byte,length=6,rows=3,d=8,heads=2,layers=1"
    (row,) = bench("--tasks", task, "--variants", "mha", "--steps", "20", "--every", "10", "--rates", "3e-2")[1]
    assert 0 < row["bits_per_byte"] < math.log2(ByteTokenizer().vocab_size)
    assert (row["tokens"], row["accuracy"], row["chance"]) == (20 * 6 * 3, None, None)


def test_a_line_that_was_cut_off_is_run_again(bench, tmp_path):
    wanted = ("--tasks", TINY, "--steps", "10", "--every", "10", "--variants", "window:width=4", "--rates", "1e-2")
    (row,) = bench(*wanted)[1]
    file = tmp_path / "deeper/quality.jsonl"
    file.write_text(file.read_text()[:-20])
    (again,) = bench(*wanted)[1]
    assert {name: again[name] for name in ("accuracy", "curve")} == {name: row[name] for name in ("accuracy", "curve")}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--variants", "nop"), "There is no attention variant 'nop', did you mean 'nope'?"),
        (("--variants", "mha:width=2"), "mha has no option 'width=2': give name=value"),
        (("--tasks", "mqr"), "There is no task 'mqr', did you mean 'mqar'? There are mqar, selective-copy"),
        (("--tasks", "mqar:pears=3"), "mqar has no size 'pears=3': give name=value, of vocab_size, length, pairs"),
        (("--tasks", "mqar:pairs=many"), "The size pairs is 'many', and must be a whole number of 1 or more."),
        (("--tasks", "mqar:embedding=-1"), "The size embedding is '-1', and must be a number above 0."),
        (("--tasks", "mqar:pairs=17"), "MQAR of 17 to recall takes 68 tokens or more, but the length is 64."),
        (("--tasks", "lm:tokenizer=char"), "The tokenizer of lm is bpe or byte, but it was told 'char'."),
        (("--tasks", "mqar:heads=3"), "3 heads cannot share a width of 64"),
        (("--steps", "25"), "The number of steps is 25, and must be a multiple of 10."),
        (("--every", "7"), "--every is 7, and must be a multiple of 10."),
    ],
)
def test_what_cannot_be_measured_is_refused_in_a_sentence_before_anything_is_trained(
    bench, capsys, arguments, sentence
):
    assert bench(*arguments) == (2, [])
    assert sentence in capsys.readouterr().err


def test_a_refusal_while_measuring_is_a_row_with_its_reason(bench, monkeypatch):
    def refuse(cell):
        raise ValueError("Not with these sizes.")

    monkeypatch.setattr(quality_cell, "run", refuse)
    _, (row,) = bench("--tasks", TINY, "--variants", "mha")
    assert (row["status"], row["reason"]) == ("unsupported", "Not with these sizes.")


def test_the_questions_alone_give_the_loss_that_all_logits_give():
    params = mixer_lm.init(jax.random.key(0), SMALL)
    questions = MQAR(vocab_size=14, length=12, pairs=3).batch(seed=0, step=0, rows=4)
    of_some, of_all = (
        jax.jit(jax.value_and_grad(partial(loss, config=SMALL), has_aux=True))(params, batch)
        for loss, batch in [(quality_cell.question_loss, questions), (mixer_lm.loss, spread(questions))]
    )
    assert_close(of_some, of_all, MODEL, np.float32)


def test_a_model_begins_as_large_as_its_setting_says():
    cell = quality_cell.Cell(setting(TINY + ",vocab_size=999,embedding=0.3,branches=0.5"), "mha", 0, 1e-2)
    config = cell.config("mha")
    params, own = quality_cell.begin(cell, config), mixer_lm.init(jax.random.key(0), config)
    assert abs(params.embedding.std() / 0.3 - 1) < SAMPLING
    assert_close(params.blocks[0].mixer.w_o, 0.5 * own.blocks[0].mixer.w_o, REDUCTION, np.float32)
    assert_close(params.blocks[0].mixer.w_q, own.blocks[0].mixer.w_q, REDUCTION, np.float32)


def test_held_out_questions_are_none_of_those_trained_on():
    cell = quality_cell.Cell(setting(TINY), "mha", seed=3, learning_rate=1e-2)
    ours = cell.setting.data.batch(cell.seed, 0, 4).tokens
    assert (cell.setting.data.batch(quality_cell.HELD_OUT + cell.seed, 0, 4).tokens != ours).any()


@pytest.mark.parametrize(
    ("text", "slots"),
    [("mha", 9), ("window:width=3", 3), ("dilated:width=2,rate=3", 4), ("top-k:n=2", 9), ("forgetting", 9)],
)
def test_a_cache_needs_the_slots_that_its_rule_or_its_scores_may_read(text, slots):
    assert quality_sizes.reach(text, 8, 2, 9) == slots


def test_layers_and_convolutions_add_their_reach():
    far = {"mha": None, "window:width=5": 2 * 4, "window:width=5,convolution=3": 2 * (4 + 2), "linear": None}
    assert {text: quality_sizes.reach_of_all(replace(SMALL, mixer=text)) for text in far} == far


def test_state_bytes_are_those_of_both_layers_caches():
    slot = 2 * 8 * 4 + 2 * 4  # key and value of all heads in float32, position and document
    assert quality_sizes.sizes(SMALL).state_bytes == 2 * 12 * slot
    assert quality_sizes.sizes(replace(SMALL, mixer="window:width=5")).state_bytes == 2 * 5 * slot
    fixed = [quality_sizes.sizes(replace(SMALL, mixer="linear", context_length=length)) for length in (12, 99)]
    assert fixed[0] == fixed[1]


@pytest.mark.slow
def test_parameters_are_matched_as_near_as_even_heads_allow():
    found = quality_sizes.matched(SMALL, "params", 3000)
    near = [found, replace(found, d_model=found.d_model - 4), replace(found, d_model=found.d_model + 4)]
    off = [abs(quality_sizes.sizes(config).parameters - 3000) for config in near]
    assert (off[0], found.mixer) == (min(off), SMALL.mixer)


def test_a_state_is_matched_by_the_option_that_sets_it():
    slot = quality_sizes.sizes(SMALL).state_bytes // SMALL.context_length
    found = quality_sizes.matched(replace(SMALL, mixer="window:width=99"), "state", 7 * slot)
    assert (found.mixer, found.d_model) == ("window:width=7", SMALL.d_model)


def test_the_short_convolution_is_told_whosever_it_is():
    told = {
        "mha": "none",
        "mha:convolution=3,initial=identity": "3 identity",
        "gated-delta-net": "own 4 random",
        "mamba2:convolution=2": "2 random + own 4 random",
    }
    assert {text: quality_sizes.convolutions(text, 8, 2) for text in told} == told


def test_what_lies_beyond_a_task_is_the_same_task_with_more_to_recall_or_longer():
    assert beyond(MQAR(length=64, pairs=16)) == {}
    assert list(beyond(MQAR())) == ["T64/K16", "T128/K32"]
    assert beyond(Induction(length=9))["T36"] == Induction(length=36)
    assert beyond(SelectiveCopy(length=20))["T40"].pairs == SelectiveCopy().pairs


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "full")) for name in quality.PRESETS]
)
def test_every_cell_of_a_preset_can_be_built(name):
    flags = quality.parser().parse_args(["--preset", name])
    wanted = quality.cells(flags)
    preset = quality.PRESETS[name]
    rates = sum(len(preset.rates or quality.RATES[task.partition(":")[0]]) for task in preset.tasks)
    assert len(wanted) == len(preset.variants) * len(preset.seeds) * rates
    assert len({json.dumps(cell.identity) for cell in wanted}) == len(wanted)
    assert all(cell.setting.task in TASKS for cell in wanted)


def test_all_of_the_preset_for_a_cpu_is_among_the_committed_results():
    rows = [json.loads(line) for line in (measure.RESULTS / "attention_quality.jsonl").read_text().splitlines()]
    for cell in quality.cells(quality.parser().parse_args(["--preset", "cpu"])):
        identity = json.loads(json.dumps(cell.identity))
        assert any(identity.items() <= row.items() for row in rows), identity


def row(variant, rate, seed, accuracy, task="mqar", **more):
    base = {
        "task": task, "sizes": TASKS[task].sizes, "variant": variant, "options": {}, "match": None, "steps": 1000,
        "learning_rate": rate, "seed": seed, "status": "ok", "accuracy": accuracy,
        "chance": {"token": 0.1, "value": 0.2}, "steps_to_99": None, "transfer": {"T9": accuracy},
        "parameters": 5, "state_bytes": 7, "convolution": "none",
        "within_reach": 0.25, "matched": None, "cpu_seconds_a_step": 0.5, "bits_per_byte": None,
        "environment": {"cpu": "a made-up one ", "date": f"2026-01-0{seed + 1}", "load": seed + 0.5},
    }  # fmt: skip
    return base | more


def test_a_rate_that_only_some_seeds_had_is_no_best_rate_and_none_that_was_tried():
    rows = [row("mha", 1, seed, 0.5) for seed in range(3)] + [row("mha", 2, 0, 0.9)]
    (record,) = quality_views.best(rows)
    assert (record["row"]["learning_rate"], len(record["seeds"]), record["rates"]) == (1, 3, [1])


def test_runs_that_end_when_they_have_learnt_and_those_that_go_on_are_two_settings():
    rows = [row("mha", 1, 0, 0.99, early_stop=told, evaluated_every=50) for told in (True, False)]
    rows.append(row("mha", 1, 0, 0.99, early_stop=True, evaluated_every=10))
    assert [len(record["seeds"]) for record in quality_views.best(rows)] == [1, 1, 1]
    stopped, went_on, often = quality_views.table(rows).split("\n\n**")
    assert "up to 1000 steps**" in stopped
    assert "up to 1000 steps, measured every 10**" in often
    assert "A run ends at 99%" in stopped
    assert "up to 1000 steps" not in went_on
    assert "A run ends" not in went_on


def test_a_best_rate_at_an_end_of_those_that_were_tried_says_so():
    for best, told in ((0.001, "0.001†"), (0.003, "0.003"), (0.01, "0.01†")):
        rows = [row("mha", rate, 0, 0.9 if rate == best else 0.5) for rate in (0.001, 0.003, 0.01)]
        assert f"| {told} |" in quality_views.table(rows)
        assert ("† The lowest or the highest" in quality_views.table(rows)) == told.endswith("†")
    assert "†" not in quality_views.table([row("mha", 0.01, 0, 0.9)])


def test_the_best_rate_is_the_best_on_average_over_seeds_and_a_rate_that_diverged_is_none():
    rows = [row("mha", rate, seed, right) for rate, *rights in [(1, 0.9, 0.1), (2, 0.6, 0.6)] for seed, right in
            enumerate(rights)]  # fmt: skip
    rows += [row("mha", 3, 0, 1.0), row("mha", 3, 1, None, status="diverged", reason="No number.")]
    (record,) = quality_views.best(rows)
    assert ({cell["learning_rate"] for cell in record["seeds"]}, len(record["seeds"]), record["rates"]) == (
        {2},
        2,
        [1, 2, 3],
    )


def test_views_hold_every_variant_and_draw_what_there_is():
    rows = [row("mha", 1, seed, right) for seed, right in enumerate((0.5, 0.7))]
    rows += [row("nope", 1, 0, None, status="unsupported", reason="Not here.")]
    text = quality_views.table(rows)
    assert "0.600 (0.500–0.700)" in text
    assert "unsupported: Not here." in text
    assert "ranks nothing" in text
    assert "mha reaches 25% of the answers: 0.400 at best." in text
    assert "learnt on a made-up one, 2026-01-01 to 2026-01-02, 2 cells, at a load of the machine of up to 1.5." in text
    unknown = [row("mha", 1, 0, 0.5, environment={"cpu": "another", "date": "2026-01-01", "load": None})]
    assert "2026-01-01, 1 cell, at a load of the machine of up to 0.0." in quality_views.table(unknown)
    drawn = quality_plots.plots(rows, [])
    assert list(drawn) == ["accuracy_by_state"]
    (sentence,) = quality_plots.missing(rows, drawn, "none")
    assert "bits per byte against decode time is not drawn" in sentence


def test_what_is_ranked_is_drawn_alone_where_there_is_some(monkeypatch):
    drawn = []
    monkeypatch.setattr(
        quality_plots, "_recall", lambda records, _: drawn.append([r["row"]["variant"] for r in records])
    )
    few = [row("nope", 1, 0, 0.5, steps=9)]
    many = [row("mha", rate, seed, 0.5) for rate in (1, 2, 3) for seed in range(3)]
    for rows in (few, many, few + many, few + many[:-3]):
        quality_plots.plots(rows, [])
    assert drawn == [["nope"], ["mha"], ["mha"], ["nope", "mha"]]
    text = row("linear", 1, 0, None, task="lm", bits_per_byte=1.5, transfer={}, chance=None, within_reach=None)
    monkeypatch.setattr(quality_plots, "decode_times", lambda rows: {"linear": 2.5})
    assert "bits_by_decode_time" in quality_plots.plots([*many, text], []), "which are ranked by themselves"


def test_what_is_known_where_it_is_hardest_stands_in_a_panel_of_its_own(monkeypatch):
    drawn = []
    monkeypatch.setattr(quality_plots, "_png", drawn.append)
    quality_plots.plots([row("mha", 1, seed, 0.9, transfer={"T9": 0.5, "T99": seed / 4}) for seed in (0, 1)], [])
    quality_plots.plots([row("mha", 1, 0, 0.9, transfer={})], [])
    found = [[(axes.get_title("left"), axes.lines[0].get_xydata().tolist()) for axes in f.get_axes()] for f in drawn]
    assert found == [[("as trained", [[7, 0.9]]), ("at T99", [[7, 0.125]])], [("as trained", [[7, 0.9]])]]


def test_bits_per_byte_stand_against_the_time_of_a_token_where_both_are_known():
    decoded = {
        "schema": 1,
        "benchmark": "decode",
        "candidate": "mha",
        "kind": "mixer",
        "mode": "decode",
        "dtype": "float32",
        "status": "ok",
    }
    decoded |= {"environment": {"device": "cpu"}, "sizes": {"context": 4096}, "time": {"token": 0.0025}}
    other = decoded | {"sizes": {"context": 256}, "time": {"token": 0.009}}
    elsewhere = decoded | {"environment": {"device": "NVIDIA H200"}, "time": {"token": 1e-5}}
    assert quality_plots.decode_times([decoded, other, elsewhere, elsewhere | {"dtype": "bfloat16"}]) == {"mha": 2.5}
    rows = [row("mha", 1, 0, None, task="lm", bits_per_byte=1.5, transfer={}, chance=None, within_reach=None)]
    drawn = quality_plots.plots(rows, [decoded, other])
    assert list(drawn) == ["bits_by_decode_time"]
    assert drawn["bits_by_decode_time"].startswith(b"\x89PNG")


def test_bits_of_matched_variants_stand_in_a_panel_of_their_own(monkeypatch):
    drawn = []
    monkeypatch.setattr(quality_plots, "_png", drawn.append)
    monkeypatch.setattr(quality_plots, "decode_times", lambda rows: {"mha": 2.5, "nope": 2.0})
    text = row("mha", 1, 0, None, task="lm", bits_per_byte=1.5, transfer={}, chance=None, within_reach=None)
    other = text | {"variant": "nope", "match": {"what": "params", "like": "mha"}, "bits_per_byte": 1.4}
    quality_plots.plots([text, other], [])
    panels = [(axes.get_title("left"), axes.lines[0].get_xydata().tolist()) for axes in drawn[0].get_axes()]
    assert [points for _, points in panels] == [[[2.5, 1.5]], [[2.0, 1.4]]]
    assert [title.endswith("params as mha") for title, _ in panels] == [False, True]
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["mha", "nope"]


def test_the_commands_that_are_told_ask_for_the_rows_again():
    told = ["--tasks", "mqar:length=32,steps=20", "lm", "--variants", "mha,nope", "window:width=4", "--seeds", "2", "0"]
    told += ["--every", "100"]
    asked = [told, ["--tasks", "mqar:length=32", "--steps", "20", "--match", "state", "--rates", "0.003"]]
    asked += [["--tasks", "mqar", "--variants", "mha", "--rates", "0.03", "--no-early-stop"]]
    asked += [["--tasks", "mqar", "--variants", "nope", "linear", "--rates", *rates] for rates in ("12", "3")]
    asked += [["--tasks", "mqar", "--variants", "linear", "--rates", "4"]]

    def planned(commands):
        flags = (quality.parser().parse_args(arguments) for arguments in commands)
        return [cell.identity for each in flags for cell in quality.cells(each)]

    rows = planned(asked)
    assert all(command.endswith(" --out anew.jsonl") for command in quality_views.commands(rows))
    again = planned(command.split()[4:] for command in quality_views.commands(rows))
    assert sorted(map(str, again)) == sorted(map(str, rows))
