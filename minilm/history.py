"""What was measured on the way: one JSON object a line, and a picture of it."""

import json
from pathlib import Path

import numpy as np

from minilm.run_folder import write_whole


class History:
    """A run's `history.jsonl`: a record for every step, and one for every measurement on held-out text.

    >>> import tempfile
    >>> history = History(Path(tempfile.mkdtemp()) / "history.jsonl")
    >>> history.add([{"step": 1, "loss": 7.5}, {"step": 2, "loss": 7.0}])
    >>> history.cut_after(1)
    >>> history.records()
    [{'step': 1, 'loss': 7.5}]
    """

    def __init__(self, path: Path):
        self.path = path
        self.held: list[dict] | None = None  # behind step `_since`, and not in the file yet
        self._since = 0

    def add_steps(self, before: int, metrics: dict, learning_rates, tokens_per_second: float) -> None:
        """Append the steps that one call made after step `before`: arrays of each metric, by step."""
        columns = {
            name: np.asarray(values).tolist() for name, values in (metrics | {"learning_rate": learning_rates}).items()
        }
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        speed = {"tokens_per_second": round(tokens_per_second)}
        self.add([{"step": before + 1 + i, **row, **speed} for i, row in enumerate(rows)])

    def add_measurement(self, step: int, loss: float, bits_per_byte: float) -> None:
        """Append a measurement on held-out text."""
        self.add([{"step": step, "validation_loss": loss, "validation_bits_per_byte": bits_per_byte}])

    def add(self, records: list[dict]) -> None:
        """Append records."""
        if self.held is not None:
            self.held += records
            return
        with open(self.path, "a") as file:
            file.writelines(json.dumps(record) + "\n" for record in records)

    def records(self) -> list[dict]:
        """All records so far; a line that is none, as a killed run leaves it half-written, is skipped."""
        if not self.path.exists():
            return []
        lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        return [record for line in lines if (record := _parsed(line)) is not None]

    def cut_after(self, step: int) -> None:
        """Forget what came after a step, because the run goes on from there."""
        if self.path.exists():
            self._write_after(step, [])

    def hold_after(self, step: int) -> None:
        """Leave the file alone until `release`: the run went back to a step, and still has the later checkpoints."""
        self.held, self._since = [], step

    def release(self) -> None:
        """Write what was held in the place of all that came after that step, at once or, where that fails, not at all.

        >>> import tempfile
        >>> history = History(Path(tempfile.mkdtemp()) / "history.jsonl")
        >>> history.add([{"step": 1, "loss": 7.5}, {"step": 2, "loss": 7.0}])
        >>> history.hold_after(1)
        >>> history.add([{"step": 2, "loss": 6.5}])
        >>> history.records()[-1]
        {'step': 2, 'loss': 7.0}
        >>> history.release()
        >>> history.records()
        [{'step': 1, 'loss': 7.5}, {'step': 2, 'loss': 6.5}]
        """
        if self.held is not None:
            self._write_after(self._since, self.held)
            self.held = None

    def _write_after(self, step, records):
        kept = [record for record in self.records() if record["step"] <= step]
        write_whole(self.path, "".join(json.dumps(record) + "\n" for record in kept + records))


def draw_loss(records: list[dict], path: Path, title: str) -> None:
    """Draw the loss over the steps, on the batches and on held-out text, into a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import, and no screen is needed
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for field, style, label in [
        ("loss", {"alpha": 0.4, "lw": 1}, "each batch"),
        ("validation_loss", {"marker": "o"}, "held-out text"),
    ]:
        points = [(record["step"], record[field]) for record in records if field in record]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, **style)
    axes.set(xlabel="step", ylabel="loss (nats per token)", title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path)


def _parsed(line):
    """The record of a line: numbers by their names, of which one is the step; None where it is anything else."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    numbers = isinstance(record, dict) and all(isinstance(value, int | float) for value in record.values())
    return record if numbers and "step" in record else None
