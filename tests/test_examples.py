"""The articles of the course: each opens as a notebook, and asks for nothing that a notebook has not."""

import ast
import re
from pathlib import Path

import jupytext
import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))
each_example = pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)


def test_articles_are_numbered_without_a_gap():
    assert [int(path.stem[:2]) for path in EXAMPLES] == list(range(1, 1 + len(EXAMPLES)))


@each_example
def test_an_article_is_a_notebook_that_begins_with_its_title_and_ends_with_what_to_try(path):
    cells = jupytext.read(path).cells
    assert re.match(rf"# {int(path.stem[:2])}\. \w", cells[0].source)
    assert cells[0].cell_type == "markdown"
    assert cells[-1].cell_type == "markdown"
    assert "## What to try next" in cells[-1].source
    assert any("seed" in cell.source for cell in cells if cell.cell_type == "markdown"), "figures are given by seed"
    for cell in cells:
        if cell.cell_type == "code":
            ast.parse(cell.source)


@each_example
def test_an_article_has_no_file_and_no_arguments_of_its_own(path):
    names = {node.id for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Name)}
    assert not names & {"__file__", "argparse"}
    assert "sys.argv" not in path.read_text("utf-8")


@each_example
def test_a_notebook_goes_back_to_its_article(path):
    written = jupytext.writes(jupytext.read(path), "py:percent")
    body = written.split("# ---\n", 2)[-1].lstrip("\n")  # above it stands what jupytext says of itself
    assert ast.dump(ast.parse(body)) == ast.dump(ast.parse(path.read_text("utf-8")))
