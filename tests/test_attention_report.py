"""What the attention benchmark measured is shown whole, compared row by row, and asked for in words it understands."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from benchmarks.attention import __main__ as command
from benchmarks.attention import bars, cores, cost, options, page, plots, protocol, record, views
from benchmarks.attention.candidates import LAWS
from benchmarks.attention.quality_tasks import TASKS
from minilm.flags import UsageError
from minilm.variants import VARIANTS, heads_of

PEAK = {"flops": 1e9, "bandwidth": 1e8}


# ── showing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def row(name, length, seconds, *, mode="fwd", status="ok", benchmark="ops", kind="core", megabytes=1):
    """A made-up measurement."""
    made = SimpleNamespace(name=name, kind=kind, backend="minilm")
    where = record.environment("minilm bench attention ops --cores made-up") | {"loaded": True, "load": 9.0}
    if status != "ok":
        sizes = {"length": length}
        return record.row(
            benchmark, where, made, mode=mode, sizes=sizes, dtype="float32", status=status, reason="it is so"
        )
    time = protocol.summary([seconds], 0.1, "CPU time") | ({"token": seconds / 2} if benchmark == "decode" else {})
    return record.row(
        benchmark,
        where,
        made,
        mode=mode,
        sizes={"context" if benchmark == "decode" else "length": length},
        dtype="float32",
        time=time,
        check={"laws": {law: {"error": 1e-3, "naive": 2e-3} for law in LAWS}, "passed": True},
        flops={"useful": 100, "executed": 250},
        bytes={"io": 2 * 10**6, "held": 10**6, "read": 10**6, "rate": 5e9},
        memory={"temporaries": megabytes * 10**6 // 2, "total": megabytes * 10**6},
        roofline=cost.roofline(100, 100, seconds, PEAK),
    )


ROWS = [
    *(row("blockwise", t, 1e-9 * t**2, megabytes=1) for t in (1024, 2048)),
    *(row("ssd", t, 1.5e-6 * t, megabytes=3) for t in (1024, 2048)),
    *(row("jax-nn", t, 5e-9 * t**2, megabytes=30) for t in (1024, 2048)),
    row("jax-cudnn", 1024, 0, status="unsupported"),
    *(row("mla", t, 1e-3, mode="decode", benchmark="decode", kind="mixer") for t in (256, 512)),
]


def test_what_is_written_is_read_again(tmp_path):
    record.write(tmp_path / "deep" / "rows.jsonl", ROWS)
    assert record.read(tmp_path / "deep" / "rows.jsonl") == ROWS
    assert all(row["schema"] == record.SCHEMA and row["environment"]["threads"] for row in ROWS)


def test_a_line_that_was_not_written_to_its_end_is_left_aside(tmp_path, capsys):
    (tmp_path / "torn.jsonl").write_text(
        json.dumps(ROWS[0]) + '\n{"schema": 1, "benchmark": "op\n' + json.dumps(ROWS[1])
    )
    assert record.read(tmp_path / "torn.jsonl") == ROWS[:2]
    assert "Line 2 of " in capsys.readouterr().err


def cell(variant, task, **found):
    """A made-up cell of quality."""
    return {
        "schema": 1, "mode": "quality", "environment": {}, "task": task, "sizes": TASKS[task].sizes, "match": None,
        "variant": variant, "options": {}, "seed": 0, "learning_rate": 0.01, "steps": 9, "status": "ok", "transfer": {},
        "steps_to_99": None, "within_reach": None, "matched": None, "convolution": "none", "parameters": 5,
        "state_bytes": 7, "cpu_seconds_a_step": 0.5, "accuracy": None, "bits_per_byte": None, "chance": None,
    } | found  # fmt: skip


def test_what_was_recalled_is_in_every_view_and_the_headline_plots_beside_it(tmp_path, monkeypatch):
    chance = {"token": 0.1, "value": 0.2}
    cells = [cell("retnet", "mqar", accuracy=0.75, chance=chance), cell("mla", "lm", bits_per_byte=1.875)]
    token = row("mla", 4096, 1e-3, mode="decode", benchmark="decode", kind="mixer")
    record.write(tmp_path / "rows.jsonl", [token, *cells])
    for form, count in (("table", 0), ("csv", 0), ("markdown", 0), ("html", 4)):
        out = tmp_path / f"page.{form}"
        words = ["report", tmp_path / "rows.jsonl", "--format", form, "--out", out, "--plots", tmp_path / "plots"]
        assert bench(monkeypatch, *words) == 0
        shown = out.read_text()
        assert all(text in shown for text in ("retnet", "0.75", "1.875", "mqar")), form
        assert shown.count("data:image/png;base64,") == count
    names = {path.stem.removeprefix("attention_") for path in (tmp_path / "plots").iterdir()}
    assert names == {"decode_time", "decode_held", "accuracy_by_state", "bits_by_decode_time"}
    assert "<table>" in shown
    assert "<strong>mqar" in shown
    assert "| ---" not in shown


def test_every_view_holds_every_row_and_the_page_how_to_make_it(tmp_path, monkeypatch):
    file = tmp_path / "rows.jsonl"
    record.write(file, ROWS)
    shown = {}
    for form in ("table", "csv", "markdown", "html"):
        out = tmp_path / f"page.{form}"
        pictures = ["--plots", tmp_path / "plots"] if form == "markdown" else []
        assert bench(monkeypatch, "report", file, "--format", form, *pictures, "--out", out) == 0
        shown[form] = out.read_text()
        for each in ROWS:
            assert each["candidate"] in shown[form]
        assert "it is so" in shown[form]
    assert len(shown["csv"].splitlines()) == 1 + len(ROWS)
    for text in (shown["markdown"], shown["html"]):
        assert "minilm bench attention ops --cores made-up" in text
        assert "ssd passes blockwise at T = 1500" in text
        assert "time like T^2.00" in text
        assert "load was beyond its number of cores" in text
    assert shown["html"].count("data:image/png;base64,") == len(list((tmp_path / "plots").iterdir())) == 4
    assert "](plots/attention_time.png)" in shown["markdown"]
    assert all(picture.startswith(b"\x89PNG") for picture in plots.plots(ROWS[:1]).values())


def test_a_loaded_machine_and_a_restless_time_are_said_beside_the_row():
    assert "loaded machine" in views.table(ROWS[:1])
    restless = ROWS[0] | {"time": protocol.summary([1.0, 2.0, 4.0], 0.1, "CPU time")}
    assert "not settled: ±50% of 3 samples" in views.note(restless)


def test_bars_are_ratios_of_rows():
    found = {claim: (measured, verdict) for claim, _, measured, verdict in bars.judged(ROWS)}
    assert found["chunked SSD takes at most 3 × the time of blockwise softmax, 2,048 tokens"] == ("0.73 ×", "holds")
    fast = "blockwise is at least 6 × as fast as jax.nn, 2,048 tokens"
    best = 5 / cost.roofline(100, 100, 1e-9 * 2048**2, PEAK)["share"]
    assert found[fast] == ("5.00 ×", f"**does not hold**; at the roof: {best:.2f} ×")
    assert found["blockwise needs at most 1/20 of jax.nn's memory, 2,048 tokens"] == ("1/30.0", "holds")
    assert found["blockwise needs at most 1/20 of jax.nn's temporaries, 2,048 tokens"] == ("1/30.0", "holds")
    assert found["ssd passes blockwise"] == ("T = 1,500", "measured")
    timed = [each for each in ROWS if "time" in each]
    restless = [each | {"time": each["time"] | {"settled": each["candidate"] != "jax-nn"}} for each in timed]
    told = {claim for claim, _, _, verdict in bars.judged(restless) if verdict.endswith("; not both times are settled")}
    assert told == {fast}


def test_a_bar_that_does_not_hold_says_what_could_and_from_where_on_it_does():
    ours, peers = [row("blockwise", t, 1e-3) for t in (2048, 4096, 8192)], [(2048, 15), (4096, 60), (8192, 60)]
    found = []
    for much in (60, 1):  # at 8,192 tokens, where it either still holds or does so no more
        rows = [row("jax-nn", t, 1e-2, megabytes=much if t == 8192 else size) for t, size in peers]
        found += [line[2:] for line in bars.judged(ours + rows) if "memory" in line[0] or "temporaries" in line[0]]
    broken, then = "**does not hold**", "; holds from 4,096 tokens on"
    why = f"{broken}; arguments and results alone: 1/7.5"
    assert found == [("1/15.0", why + then), ("1/15.0", broken + then), ("1/15.0", why), ("1/15.0", broken)]


def test_a_time_that_is_not_linear_in_the_length_says_how_the_work_grows():
    verdicts = []
    for power in (1.1, 1.3):
        rows = [row(bars.WINDOWED, t, 1e-9 * t**power) | {"flops": {"useful": t**1.12}} for t in (512, 1024, 4096)]
        verdicts += [line[2:] for line in bars.judged(rows)]
    assert verdicts == [("T^1.10", "holds"), ("T^1.30", "**does not hold**; its useful FLOPs: T^1.12")]


def on_a_gpu(row, dtype="bfloat16"):
    return row | {"dtype": dtype, "environment": row["environment"] | {"device": "NVIDIA H200"}}


def test_bars_of_an_accelerator_are_others_and_its_rows_stand_apart():
    times = {"pallas": 1e-3, "jax-cudnn": 0.6e-3, "dense": 7e-3, "jax-nn": 1e-3, "blockwise": 1e-3}
    rows = [on_a_gpu(row(name, 8192, seconds)) for name, seconds in times.items()]
    rows += [on_a_gpu(row(name, 2048, 1e-3), "float32") for name in ("jax-nn", "blockwise")]
    assert [line[0] for line in bars.judged(rows) if "passes" not in line[0]] == [
        "our kernel has at least half of cuDNN's rate, 8,192 tokens",
        "our kernel is at least 8 × as fast as dense, 8,192 tokens",
    ]
    assert [line[2] for line in bars.judged(rows)] == ["0.60 ×", "7.00 ×"]
    assert [line[3].startswith("holds") for line in bars.judged(rows)] == [True, False]
    both = [*rows, row("blockwise", 8192, 1e-9)]
    assert not [line for line in views.crossovers(both) if "blockwise passes" in line and "NVIDIA" not in line]
    text = page.markdown(both, [], {}, "a command")
    assert "Cores: attention between heads that are given, on cpu" in text
    assert "Cores: attention between heads that are given, on NVIDIA H200" in text
    assert len({record.identity(each) for each in (row("dense", 8192, 1.0), on_a_gpu(row("dense", 8192, 1.0)))}) == 2


def test_of_many_candidates_pairs_are_not_told_one_by_one():
    powers = enumerate([1.0, *[2.0] * views.MANY])
    rows = [row(f"v{i}", t, (1e-6 if i else 3e-6) * t**p) for i, p in powers for t in (1, 16)]
    assert views.crossovers(rows) == []
    beside = [row(views.BESIDE, t, 1e-6 * t**2) for t in (1, 16)]
    assert [line.split(" at")[0] for line in views.crossovers(rows + beside)] == [f"v0 passes {views.BESIDE}"]
    assert len(views.crossovers([each for each in rows if each["candidate"] != "v1"])) == views.MANY - 1
    assert plots.plots(rows)["time"].startswith(b"\x89PNG")


def test_a_panel_says_sizes_and_device():
    told = views.Group("ops", "core", "fwd", "bfloat16", (("heads", 8),), "NVIDIA H200", "device time")
    assert plots.title(told) == "cores, forward, bfloat16, heads 8, NVIDIA H200, device time"
    assert plots.title(told._replace(device="cpu", clock="CPU time")) == "cores, forward, bfloat16, heads 8"


# ── the command line ─────────────────────────────────────────────────────────────────────────────────────────────────


def bench(monkeypatch, *arguments):
    monkeypatch.setattr(command, "_prepare", lambda pinned: None)  # the tests' own process keeps its cores
    return command.main([str(argument) for argument in arguments])


def test_all_that_there_is_is_listed_with_what_it_can_be_told(monkeypatch, capsys):
    assert bench(monkeypatch, "list") == 0
    listed = capsys.readouterr().out
    assert [name for name in [*VARIANTS, *cores.CORES] if f"\n{name} " not in f"\n{listed}"] == []
    assert "softmax; options groups=2; arXiv:2305.13245" in listed
    assert "unavailable here: cuDNN computes on NVIDIA GPUs" in listed
    assert "\nreference         NumPy in float64" in listed


def test_what_is_measured_is_printed_and_written(monkeypatch, capsys, tmp_path):
    out = tmp_path / "mine.jsonl"
    monkeypatch.setattr(cost, "peak", lambda clock: PEAK)
    summaries, summary = [], views.summary
    monkeypatch.setattr(views, "summary", lambda rows: summaries.append(out.exists()) or summary(rows))
    sizes = ["--heads", "2", "--width", "8", "--budget", "0.01s"]
    assert bench(monkeypatch, "ops", "--cores", "dense", "--lengths", "8..16", *sizes, "--out", out) == 0
    assert "dense, fwd, float32, heads 2, width 8: time like T^" in capsys.readouterr().out
    assert summaries == [True], "what nobody reads to its end is written before it is shown"
    first, second = (json.loads(line) for line in out.read_text().splitlines())
    assert (first["sizes"]["length"], second["sizes"]["length"]) == (8, 16)
    assert first["environment"]["command"].endswith(
        "ops --cores dense --lengths 8..16 --heads 2 --width 8 --budget 0.01s"
    )
    assert bench(monkeypatch, "decode", "--variants", "linear", "--contexts", "8", "--total", "8", *sizes) == 0
    assert "linear" in capsys.readouterr().out


MINE = """
from minilm.variants.softmax import mqa

def attention(d, heads):
    "Attention of one's own."
    return mqa(d, heads)
"""


@pytest.mark.slow
def test_a_variant_of_the_current_folder_is_measured_from_there(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    words = ["--variant", "yarn", "--lengths", "64,128", "--width", "32", "--heads", "2", "--budget", "1"]
    program = [sys.executable, "-m", "minilm.cli", "bench", "attention", "ops", "--variant", "mine:attention", *words]
    program += ["--out", "rows.jsonl"]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = record.read(tmp_path / "rows.jsonl")
    assert [(each["candidate"], each["status"]) for each in rows] == [("mine:attention", "ok"), ("yarn", "ok")] * 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["opps"], "There is no command 'opps' (did you mean ops?); there are ops, decode"),
        (["ops", "--variants", "windo"], "There is no attention variant 'windo', did you mean 'window'?"),
        (["ops", "--variants", "gqa:groups=two"], "The option groups is 'two', and must be of the kind int"),
        (["ops", "--cores", "blokwise"], "There is no core 'blokwise' (did you mean blockwise?)"),
        (["ops", "--cores", "dense:width=3"], "The core dense has no option 'width=3': give name=number, of window"),
        (
            ["ops", "--cores", "dense:window=-5"],
            "The option window of the core dense is '-5', and must be a whole number",
        ),
        (["ops", "--cores", "jax-flash:n=3"], "The core jax-flash has no option 'n=3': it takes none"),
        (["ops", "--cores", "none"], "There is nothing to measure"),
        (["ops", "--lengths", "512,many"], "--lengths: 'many' is no length: give numbers up to 1048576"),
        (["ops", "--lengths", "0"], "'0' is no length"),
        (["ops", "--heads", "3"], "3 heads cannot share a width of 512: choose a number of heads that divides it"),
        (["ops", "--heads", "-3"], "--heads: '-3' is no whole number from 1 to 2147483647"),
        (["ops", "--heads", "9" * 20], "is no whole number from 1 to 2147483647"),
        (["ops", "--variants", "window:width=99999999999"], "The option width is 99999999999, and must be below"),
        (["ops", "--variants", "nsa:stride=3"], "A stride of 3 must divide the length of blocks, 32, and their size"),
        (["ops", "--variants", "nsa:n=2"], "the first block and the last two are always selected: expected n of at"),
        (["ops", "--variants", "json:loads"], "json:loads could not be made of a width of 512 and 8 heads: TypeError"),
        (["ops", "--variants", "mine:none"], "mine:none makes a NoneType: expected a `minilm.shapes.Mixer`"),
        (["ops", "--variants", "mine:number"], "mine:number was taken for a variant outside of minilm, and could not"),
        (["ops", "--dtype", "f23"], "--dtype: there is no dtype 'f23' (did you mean f32?); there are f32, bf16"),
        (["ops", "--modes", ""], "--modes: give a mode, of fwd, fwdbwd, prefill"),
        (["ops", "--budget", "long"], "--budget: 'long' is not a number of seconds"),
        (["ops", "--lenths", "512"], "does not know what to do with '--lenths' (did you mean --lengths"),
        (["decode", "--contexts", "32k"], "A context of 32768 does not fit into 16384 tokens: give more --total"),
        (["decode", "--variants", ""], "There is nothing to measure: name a variant"),
        (["decode", "--heads", "3"], "3 heads cannot share a width of 256"),
        (["decode", "--variants", "mah"], "There is no attention variant 'mah'"),
        (["report", "none.jsonl"], "none.jsonl cannot be read: No such file"),
        (["report", "empty.jsonl"], "empty.jsonl holds no measurement"),
        (["report", "words.jsonl"], "Line 1 of words.jsonl is no JSON: "),
        (["report", "cell.jsonl"], "Line 1 of cell.jsonl is no measurement: it lacks schema, environment, task"),
        (["ops", "--variants", "gqa:groups=0"], "The option groups is 0, and must be at least 1"),
        (["ops", "--variants", "window:width=0"], "The option width is 0, and must be at least 1"),
        (["ops", "--variants", "mha:convolution=-1"], "A convolution is at least 1 wide and begins random"),
        (
            ["ops", "--variants", "broken:it"],
            "broken:it was taken for a variant outside of minilm, and could not be had",
        ),
        (["ops", "--cores", "ssd:chunk=0"], "The option chunk of the core ssd is 0, and must be at least 1"),
        (["ops", "--lengths", "4k..512"], "'4k..512' runs backwards: give the shorter length first"),
        (["quality", "--core", "999"], "--core: '999' is no core that may be used: "),
        (["quality", "--preset", "smok"], "--preset: there is no preset 'smok' (did you mean smoke?)"),
        (["quality", "--seeds", "one"], "--seeds: 'one' is no whole number from 0"),
        (["quality", "--rates", "nan"], "--rates: 'nan' is not a number above 0"),
        (["quality", "--out", "rows.jsonl"], "rows.jsonl holds measurements of another command"),
        (["quality", "--tasks", "copy"], "There is no task 'copy'"),
        (["quality", "--match", "state", "--like", "gpa"], "There is no attention variant 'gpa', did you mean"),
        (["quality", "--views", "--out", "none.jsonl"], "There is no none.jsonl to show: name a file of results"),
        (["quality", "--steps", "-1"], "--steps: '-1' is no whole number from 1"),
        (["report", "bare.jsonl"], "Line 1 of bare.jsonl is no measurement: it lacks environment.cpu, environment.dev"),
        (["report", "told.jsonl"], "Line 1 of told.jsonl is no measurement: it lacks accuracy, chance.token, chance.v"),
        (["compare", "rows.jsonl", "walls.jsonl"], "was taken in CPU time and in wall-clock time: measure both in the"),
        (["report", "list.jsonl"], "Line 1 of list.jsonl is no measurement: it lacks schema, benchmark"),
        (["report", "old.jsonl"], "Line 1 of old.jsonl has schema 0, and this program reads 1"),
        (["report", "old.jsonl", "--format", "pdf"], "--format: there is no format 'pdf'; there are table, csv"),
        (["compare", "old.jsonl"], "the following arguments are required: B"),
        (["compare", "a", "b", "--fail-if-slower", "x"], "--fail-if-slower: 'x' is not a percentage, such as 10%"),
    ],
)
def test_what_cannot_be_understood_is_answered_in_a_sentence(arguments, sentence, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("minilm.allocator.tune", lambda: None)
    texts = {"empty": "\n", "words": "measured\n", "list": "[]", "cell": '{"mode": "quality"}'}
    (tmp_path / "broken.py").write_text("it = 1 / 0")
    (tmp_path / "mine.py").write_text("number = 3\ndef none(d, heads):\n    pass")
    record.write(tmp_path / "rows.jsonl", ROWS)
    record.write(
        tmp_path / "walls.jsonl", [each | {"time": each["time"] | {"clock": "wall-clock time"}} for each in ROWS[:2]]
    )
    texts |= {"old": json.dumps(ROWS[0] | {"schema": 0}), "bare": json.dumps(ROWS[0] | {"environment": {}})}
    for name, text in (texts | {"told": json.dumps(cell("mha", "mqar"))}).items():
        (tmp_path / f"{name}.jsonl").write_text(text)
    assert bench(monkeypatch, *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("minilm bench attention: ")
    assert error.count("\n") == 1
    assert sentence in error


def test_help_shows_what_there_is(monkeypatch, capsys):
    assert bench(monkeypatch) == 2
    shown = capsys.readouterr().out
    assert all(name in shown for name in command.COMMANDS)
    for name in command.COMMANDS:
        with pytest.raises(SystemExit):
            bench(monkeypatch, name, "--help")
        assert f"usage: minilm bench attention {name}" in capsys.readouterr().out


def test_the_commas_of_options_are_not_those_between_names():
    assert options.names("mha,nsa:size=32,n=2,window:width=16") == ["mha", "nsa:size=32,n=2", "window:width=16"]
    assert options.lengths("256..1k,300") == [256, 300, 512, 1024]
    with pytest.raises(UsageError, match="3 heads"):
        options.head_width(8, 3)
    assert heads_of(8, 2)["k"] == options.head_width(8, 2)
