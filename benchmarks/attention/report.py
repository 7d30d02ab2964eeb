"""What was measured, shown: a table, CSV, Markdown, or one HTML page with its pictures inside; pictures by themselves.

minilm bench attention report mine.jsonl                                    a table, growth and crossovers
minilm bench attention report ops.jsonl decode.jsonl --format html --out mine.html
minilm bench attention report mine.jsonl --format markdown --plots pictures --out page.md
"""

from pathlib import Path

from benchmarks.attention import options, page, plots, record, views

FORMATS = ("table", "csv", "markdown", "html")


def main(words: list[str]) -> int:
    """Read the options, and run."""
    parser = options.Parser("report", __doc__)
    add = parser.add_argument
    add("files", nargs="+", metavar="FILE", help="JSON lines, as --out of `ops` and `decode` writes them")
    add(
        "--format",
        type=options.one_of(FORMATS, "format"),
        default="table",
        help=", ".join(FORMATS) + " (default: table)",
    )
    add("--plots", metavar="FOLDER", help="write the pictures there, as PNG")
    add("--out", metavar="FILE", help="write there instead of to the terminal")
    return run(parser.parse_args(words))


def run(chosen) -> int:
    """Show or write the view that was asked for."""
    everything = [row for path in chosen.files for row in record.read(path)]
    rows, quality = ([row for row in everything if (row["mode"] == "quality") == asked] for asked in (False, True))
    pictures = plots.plots(rows) if chosen.plots or chosen.format == "html" else {}
    paths, made_by = {}, chosen.command + (f" --out {chosen.out}" if chosen.out else "")
    if chosen.plots:
        Path(chosen.plots).mkdir(parents=True, exist_ok=True)
        for name, picture in pictures.items():
            paths[name] = Path(chosen.plots) / f"attention_{name}.png"
            paths[name].write_bytes(picture)
    text = {
        "table": lambda: f"{views.table(rows)}\n{views.summary(rows)}\n",
        "csv": lambda: views.as_csv(rows),
        "markdown": lambda: page.markdown(rows, quality, paths, made_by, chosen.out),
        "html": lambda: page.as_html(rows, quality, pictures),
    }[chosen.format]()
    if chosen.out:
        Path(chosen.out).write_text(text)
        print(f"written to {chosen.out}")
    else:
        print(text, end="")
    return 0
