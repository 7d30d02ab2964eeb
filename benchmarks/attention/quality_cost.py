"""What a training step costs, of everything that one table of the quality benchmark shows: side by side, in turn.

Cells are trained on whatever machine is at hand, for an accuracy does not depend on it. A step's time does; so it is
taken of all rows in one run, and stands in each of them as `step`.
"""

import json
import sys
from collections import defaultdict

import jax

from benchmarks.attention import protocol, quality_cell, quality_views, record
from minilm.training import init_state

SAID = "cpu", "date", "load", "git"  # of where a step was timed


def timed(rows: list[dict], cells, seconds: float, timer, command: str) -> list[dict]:
    """The rows, of which those that are `ok` say what a step takes.

    Args:
      rows: of cells that were trained.
      cells: one or more for each line of their tables; a row of none of them stays as it is.
      seconds: for the steps of a table, beside what compiling takes.
      timer: which seconds.
      command: what the user wrote.
    """
    lines = {_line(json.loads(json.dumps(cell.identity))): cell for cell in cells}
    lines = {_line(row): lines[_line(row)] for row in rows if row["status"] == "ok" and _line(row) in lines}
    tables, costs = defaultdict(list), {}
    for line, cell in lines.items():
        tables[json.dumps([cell.identity["task"], cell.setting.sizes, cell.match])].append((line, cell))
    for table in tables.values():
        where = record.environment(command)
        runs = {line: steps_of(cell) for line, cell in table}
        times, failed = protocol.settled_times(runs, seconds=seconds, timer=timer)
        for line, failure in failed.items():
            print(f"A step of {lines[line].variant} is not timed: {failure['reason']}", file=sys.stderr)
        said = {name: where[name] for name in SAID}
        for line, samples in times.items():
            costs[line] = protocol.summary([t / quality_cell.SCANNED for t in samples], None, timer.name) | said
    return [row | {"step": costs[_line(row)]} if _line(row) in costs else row for row in rows]


def steps_of(cell: quality_cell.Cell):
    """A function that takes some steps more, and returns when they are done."""
    config, _ = quality_cell.built_as(cell)
    loss, batch_at = quality_cell.learning(cell, config)
    optimizer, advance, *_ = quality_cell.compiled(loss, config, cell.learning_rate, cell.setting.steps)
    state, batches = init_state(quality_cell.begin(cell, config), optimizer), quality_cell.stacked(batch_at, 0)

    def run():
        nonlocal state
        state, metrics = advance(state, batches)
        jax.block_until_ready((state, metrics))

    return run


def _line(row):
    return json.dumps([row.get(name) for name in quality_views.ALIKE])
