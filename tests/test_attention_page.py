"""The page says how it was made, shows the pictures that were asked for, and what was not measured."""

import json

from benchmarks.attention import page, quality_views, record, views
from minilm.variants import VARIANTS
from tests.test_attention_report import ROWS, bench, cell, row


def test_a_page_is_written_into_a_new_folder_and_says_how_it_was_made(tmp_path, monkeypatch):
    chance = {"token": 0.1, "value": 0.2}
    unknown = cell("mha", "mqar", accuracy=0.5, chance=chance) | {"task": "chess", "sizes": {"board": 8}}
    told = cell("a|b", "mqar", accuracy=0.5, chance=chance) | {"sizes": cell("mha", "mqar")["sizes"] | {"board": 8}}
    record.write(tmp_path / "rows.jsonl", [ROWS[0], unknown, told])
    out = tmp_path / "a new folder" / "page.md"
    assert bench(monkeypatch, "report", tmp_path / "rows.jsonl", "--format", "markdown", f"--out={out}") == 0
    text = out.read_text()
    assert text.count("--out") == 2, "the page's own, and that of the quality task that is known"
    assert f"--format markdown --out '{out}'`" in text
    assert "| a\\|b | none |" in text
    assert "--tasks mqar:board=8,steps=9 " in text
    assert json.loads(json.dumps(quality_views.commands([unknown]))) == []


def test_the_pictures_that_are_asked_for_are_drawn_and_stand_before_the_tables(tmp_path, monkeypatch, capsys):
    record.write(tmp_path / "rows.jsonl", ROWS)
    words = ["report", tmp_path / "rows.jsonl", "--format", "markdown", "--out", tmp_path / "page.md"]
    assert bench(monkeypatch, *words, "--plots", tmp_path / "drawn", "--pictures", "decode_held,time") == 0
    assert {each.name for each in (tmp_path / "drawn").iterdir()} == {"attention_time.png", "attention_decode_held.png"}
    text = (tmp_path / "page.md").read_text()
    assert text.count("](drawn/") == 2
    assert text.index("## Bars") < text.index("](drawn/attention_time.png)") < text.index("## Cores")
    capsys.readouterr()
    assert bench(monkeypatch, *words, "--pictures", "times") == 2
    assert "there is no picture 'times' (did you mean time or decode_time?)" in capsys.readouterr().err


def test_from_times_that_are_not_settled_nothing_is_guessed():
    dense, ssd = ({t: f(t) for t in (1, 16)} for f in (lambda t: 1e-6 * t**2, lambda t: 1e-4 * t))

    def crossings(settled):
        rows = [row(name, t, s) for name, by_length in (("dense", dense), ("ssd", ssd)) for t, s in by_length.items()]
        for each in rows:
            each["time"]["settled"] = settled
        return views.crossovers(rows)

    (guessed,) = crossings(settled=True)
    assert guessed.startswith("ssd passes dense at T = 100")
    assert guessed.endswith("(not measured)")
    assert crossings(settled=False) == []


def test_the_page_says_how_many_variants_were_measured():
    decoded = row("mla:latent=8", 256, 1e-3, mode="decode", benchmark="decode", kind="mixer")
    forward = [row(name, 64, 1e-3, kind="mixer") for name in VARIANTS]
    others = [row("linear", 64, 1e-3), row("gla", 64, 0, mode="prefill", kind="mixer", status="oom")]
    cells = [cell("retnet", "mqar", accuracy=0.5, chance=None), cell("mha", "lm", bits_per_byte=1.9)]
    forward.append(row("mha", 256, 1e-3, kind="mixer"))
    text = page.markdown([*forward, decoded, *others], cells, {}, "a command")
    told = f"timed forward: {len(VARIANTS) - 1} up to 64 tokens, 1 up to 256 tokens"
    for n, what in ((len(VARIANTS), told), (1, "timed in decoding: 1 up to 256 tokens"), (1, "asked what they recall")):
        assert f"{n} of the {len(VARIANTS)} variants were {what}." in text
    assert text.count(" variants were ") == 3
