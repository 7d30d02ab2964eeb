"""What was measured, shown: a table, CSV, Markdown, or one HTML page with its pictures inside; pictures by themselves.

minilm bench attention report mine.jsonl                                    a table, growth and crossovers
minilm bench attention report ops.jsonl decode.jsonl --format html --out mine.html
minilm bench attention report mine.jsonl --format markdown --plots pictures --out page.md
minilm bench attention report mine.jsonl --plots pictures --pictures accuracy_by_state,bits_by_decode_time
"""

import os
import shlex
from pathlib import Path

from benchmarks.attention import options, overview, page, plots, quality_plots, quality_views, record, views

FORMATS = ("table", "csv", "markdown", "html")


def main(words: list[str]) -> int:
    """Read the options, and run."""
    parser = options.Parser("report", __doc__)
    add = parser.add_argument
    add("files", nargs="+", metavar="FILE", help="JSON lines, as --out of `ops`, `decode` and `quality` writes them")
    add(
        "--format",
        type=options.one_of(FORMATS, "format"),
        default="table",
        help=", ".join(FORMATS) + " (default: table)",
    )
    add("--plots", metavar="FOLDER", help="write the pictures there, as PNG")
    add("--pictures", type=pictures, default=list(page.PICTURES), help=", ".join(page.PICTURES) + " (default: all)")
    add("--out", type=options.file, metavar="FILE", help="write there instead of to the terminal")
    return run(parser.parse_args(words))


def pictures(text: str) -> list[str]:
    """`time,memory`, as the page calls them."""
    return options.among(text, page.PICTURES, "picture")


@record.rows_as_written
def run(chosen) -> int:
    """Show or write the view that was asked for."""
    everything = [row for path in chosen.files for row in record.read(path)]
    rows, quality = ([row for row in everything if (row["mode"] == "quality") == asked] for asked in (False, True))
    wanted = chosen.plots or chosen.format == "html"
    drawn = plots.plots(rows) | quality_plots.plots(quality, rows) if wanted else {}
    drawn = {name: picture for name, picture in drawn.items() if name in chosen.pictures}
    places, made_by = {}, chosen.command + (f" --out {shlex.quote(chosen.out)}" if chosen.out else "")
    folder = Path(chosen.out).resolve().parent if chosen.out else Path.cwd()
    if chosen.plots:
        Path(chosen.plots).mkdir(parents=True, exist_ok=True)
        for name, picture in drawn.items():
            path = Path(chosen.plots) / f"attention_{name}.png"
            path.write_bytes(picture)
            places[name] = os.path.relpath(path, folder)
    text = {
        "table": lambda: _tables(rows, quality),
        "csv": lambda: views.as_csv(rows + quality),
        "markdown": lambda: page.markdown(rows, quality, places, made_by),
        "html": lambda: page.as_html(rows, quality, drawn, made_by),
    }[chosen.format]()
    if chosen.out:
        folder.mkdir(parents=True, exist_ok=True)
        Path(chosen.out).write_text(text)
        print(f"written to {chosen.out}")
    else:
        print(text, end="")
    return 0


def _tables(rows, quality):
    parts = [f"{views.table(rows)}\n{views.summary(rows)}"] if rows else []
    parts += [quality_views.table(quality)] if quality else []
    return "\n\n".join([*parts, *overview.blocks(rows, quality)]) + "\n"
