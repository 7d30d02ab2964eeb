"""What a file of a data set becomes as it is taken: plain text, and arrays whose rows lie together."""

import csv
import html
import importlib.util
import io
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from minilm.data.download import run_pip


def rows_together(source: Path, target: Path) -> None:
    """Write an `.npy` array row by row, so that a row of the memory-mapped file is one read and not one a column."""
    import numpy as np

    np.save(target, np.ascontiguousarray(np.load(source, mmap_mode="r", allow_pickle=False)), allow_pickle=False)


def lines_of_parquet(source: Path, target: Path) -> None:
    """Write the first column of a Parquet file as UTF-8 text, a line each.

    It needs pyarrow once. Where that is not installed, pip brings it into a folder that is gone afterwards; reading
    happens in a process of its own, which that folder ends with.
    """
    program = (
        "import sys, pyarrow.parquet as parquet\n"
        "lines = parquet.read_table(sys.argv[1])[0].to_pylist()\n"
        "open(sys.argv[2], 'w', encoding='utf-8', newline='').writelines(f'{line}\\n' for line in lines)\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        environment = dict(os.environ)
        if importlib.util.find_spec("pyarrow") is None:
            run_pip("pyarrow", "install", "--target", folder, "--no-deps", "--only-binary=:all:", "pyarrow")
            environment["PYTHONPATH"] = folder
        command = [sys.executable, "-c", program, str(source), str(target)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"pyarrow could not read {source.name}: {done.stderr.strip().splitlines()[-1:]}.")


def labelled_reviews(source: Path, target: Path) -> None:
    """Write the labelled reviews of Stanford's IMDb archive as CSV: text, label (1 is positive), split, stars."""
    labelled = re.compile(r"aclImdb/(train|test)/(neg|pos)/\d+_(\d+)\.txt")
    with tarfile.open(source, "r:*") as archive, open(target, "w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label", "split", "stars"])
        for member in archive:
            if (found := labelled.fullmatch(member.name)) and (contents := archive.extractfile(member)):
                text = io.TextIOWrapper(contents, "utf-8").read()
                rows.writerow([text, int(found[2] == "pos"), found[1], found[3]])


def news_with_topics(source: Path, target: Path) -> None:
    """Write the items of AG's news archive, which has no header and numbers its topics, as CSV: text, label, split."""
    topics = {"1": "World", "2": "Sports", "3": "Business", "4": "Sci/Tech"}
    with tarfile.open(source, "r:*") as archive, open(target, "w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label", "split"])
        for split in ("train", "test"):
            member = archive.extractfile(f"ag_news_csv/{split}.csv")
            assert member is not None, "the archive's digest has been checked"
            for topic, title, beginning in csv.reader(io.TextIOWrapper(member, "utf-8", newline="")):
                # The archive has lost the & of some HTML, and writes a backslash where a line broke.
                text = f"{title} {beginning}".replace(" #39;", "'")
                text = re.sub(r"(?<![&\w])(#\d+|quot|amp|lt|gt);", r"&\1;", text)
                rows.writerow([html.unescape(text).replace("\\", " "), topics[topic], split])
