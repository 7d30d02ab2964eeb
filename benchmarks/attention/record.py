"""One line of JSON for one measurement: what was measured and where, whether it is right, and what it takes.

| field | what it holds |
|---|---|
| `schema` | the number of this form |
| `benchmark` | `ops` or `decode` |
| `environment` | versions, processor, threads, load, whether that was too much, git revision, date, command |
| `candidate`, `kind`, `backend` | the name with its options; core or mixer; who computes it |
| `mode`, `sizes`, `dtype` | fwd, fwdbwd, prefill or decode; length or context, heads, width, ... |
| `status`, `reason` | ok, or unsupported, oom, wrong, failed, and then why |
| `check` | the error against float64 under each law, beside the naive form's; `long`, of some tokens of a long run |
| `time` | seconds: median, p20, p80; n samples, their spread; compile; which clock |
| `flops`, `bytes`, `memory`, `roofline` | see `cost` |

A row that is not ok has no `time`. Rows of `quality` are of a form of their own, which is read here and passed on.
"""

import contextlib
import functools
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import benchmarks.measure as measure
from minilm.flags import UsageError
from minilm.sentences import said

SCHEMA = 1
STATUSES = ("ok", "unsupported", "oom", "wrong", "failed")
TIMES = ("median", "p20", "p80", "token")
# What views read of a row, by its path; `?` behind what may be null.
_MEASURED = "schema benchmark candidate kind mode dtype status"
_MEASURED += " environment.cpu environment.device environment.threads environment.cores environment.versions"
_MEASURED += " environment.date environment.command environment.git?"
_EXTENT = {"ops": " sizes.length", "decode": " sizes.context"}
_TIMED = " check.passed time.median time.p20 time.p80 time.n time.spread time.settled time.clock"
_OF = {"ops": " memory.total memory.temporaries", "decode": " time.token bytes.held"}
_QUALITY = "schema environment task sizes variant options match? seed steps learning_rate status"
_LEARNT = " convolution parameters state_bytes cpu_seconds_a_step"
_LEARNT += " transfer steps_to_99? within_reach? matched? accuracy? bits_per_byte? chance?"
_RECALLED, _READ = " accuracy chance.token chance.value", " bits_per_byte"


def environment(command: str) -> dict:
    """Where and when: what `measure` says, with threads, device, revision and whether the machine was loaded."""
    import jax

    found = measure.environment()
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = found["load"] or 0.0
    return found | {
        "command": command,
        "threads": threads,
        "device": jax.devices()[0].device_kind,
        "git": revision(),
        "loaded": load > (os.cpu_count() or 1),
    }


@functools.cache
def revision() -> str | None:
    """The commit that was measured, `+` behind it where files differ from it; None outside of a repository."""
    folder = Path(__file__).parent

    def git(*words):
        return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "..", "../../minilm", ":!../results")
        return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def row(benchmark: str, where: dict, candidate, *, mode: str, sizes: dict, dtype: str, status="ok", **figures) -> dict:
    """One measurement. What is not ok must say why, and has no time."""
    if status not in STATUSES:
        raise ValueError(f"the status is {status!r}, and must be one of {', '.join(STATUSES)}")
    if status != "ok" and ("time" in figures or not figures.get("reason")):
        raise ValueError(f"a row that is {status} comes with a reason and without a time")
    head = {"schema": SCHEMA, "benchmark": benchmark, "candidate": candidate.name, "kind": candidate.kind}
    head |= {"backend": candidate.backend, "mode": mode, "sizes": sizes, "dtype": dtype, "status": status}
    return head | figures | {"environment": where}


def identity(row: dict) -> tuple:
    """What two rows share that measure the same."""
    sizes, device = tuple(sorted(row["sizes"].items())), row["environment"]["device"]
    return row["benchmark"], row["kind"], row["candidate"], row["mode"], sizes, row["dtype"], device


def extent(row: dict) -> int:
    """The length, or the context, that rows of one candidate differ in."""
    return row["sizes"].get("length") or row["sizes"]["context"]


def write(path, rows: list[dict]) -> None:
    """A line for each row; what is not finite is null, for JSON knows no such number."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("".join(json.dumps(_finite(row), separators=(",", ":")) + "\n" for row in rows))


class UnwrittenError(UsageError):
    """What was measured, in `rows`, could not be written: it is shown all the same."""

    def __init__(self, path, rows: list[dict], error: OSError):
        super().__init__(
            f"{path} could not be written ({error.strerror or error}), and what was measured is in the table alone: "
            "keep that, or measure again with another --out."
        )
        self.rows = rows


def collected(rows, path, tell) -> list[dict]:
    """All rows of a run, each told as it comes, and written before they are shown, which nobody may read to its end.

    What a run that is ended had measured is written beside, as `FILE.part`. Without a path nothing is written; where
    there is no writing, an `UnwrittenError` holds the rows.
    """
    found = []
    try:
        for row in rows:
            found.append(row)
            tell(row)
    except BaseException:
        with contextlib.suppress(OSError):
            if path and found:
                write(f"{path}.part", found)
                print(f"What was measured is in {path}.part.", file=sys.stderr)
        raise
    if path:
        try:
            write(path, found)
        except OSError as error:
            raise UnwrittenError(path, found, error) from error
    return found


def _finite(value):
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read(path) -> list[dict]:
    """The rows of a file that holds some, or a `UsageError`."""
    rows = all_of(path)
    if not rows:
        raise UsageError(f"{path} holds no measurement.")
    return rows


def all_of(path) -> list[dict]:
    """The rows of a file, or a `UsageError` on the first line that is none.

    A line that ends in the middle, as a killed run leaves it, is told on standard error and left aside.
    """
    try:
        lines = Path(path).read_text().splitlines()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is no text: give a file of JSON lines, as --out writes them.") from None
    rows = (_parsed(path, number, line) for number, line in enumerate(lines, start=1) if line.strip())
    return [row for row in rows if row is not None]


def _parsed(path, number, line):
    try:
        found = json.loads(line)
    except json.JSONDecodeError as error:
        if line.startswith("{") and (not line.endswith("}") or error.pos == len(line)):
            print(f"Line {number} of {path} was not written to its end, and is left aside.", file=sys.stderr)
            return None
        raise UsageError(f"Line {number} of {path} is no JSON: {error.msg} at column {error.colno}.") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"Line {number} of {path} cannot be read: {error}.") from None
    if isinstance(found, dict) and found.get("schema", SCHEMA) != SCHEMA:
        raise UsageError(f"Line {number} of {path} has schema {found['schema']}, and this program reads {SCHEMA}.")
    missing = [place.rstrip("?") for place in _needed(found) if not _holds(found, place)]
    if missing:
        raise UsageError(f"Line {number} of {path} is no measurement: it lacks {', '.join(missing)}.")
    if found["mode"] == "quality" or "time" not in found:
        return found
    if found["status"] != "ok" or not all(check["passed"] is True for check in _checks(found["check"])):
        raise UsageError(f"Line {number} of {path} has a time, and did not pass its check: measure it anew.")
    times = [found["time"][name] for name in TIMES if name in found["time"]]
    if not all(0 < time < math.inf for time in times):
        raise UsageError(f"Line {number} of {path} has a time that is no number above 0: {', '.join(map(str, times))}.")
    return found


def _checks(check):
    """Of all tokens of a short sequence, and where there was one of some of a long one."""
    return [check, *([check["long"]] if check.get("long") else [])]


def _needed(row) -> list[str]:
    """The paths that a row of its kind has."""
    if not isinstance(row, dict):
        return _MEASURED.split()
    if row.get("mode") != "quality":
        benchmark = "decode" if row.get("benchmark") == "decode" else "ops"
        why, timed = " reason" * (row.get("status") != "ok"), (_TIMED + _OF[benchmark]) * ("time" in row)
        return (_MEASURED + _EXTENT[benchmark] + why + timed).split()
    if row.get("status") != "ok":
        return [*_QUALITY.split(), "reason"]
    return (_QUALITY + _LEARNT + (_READ if row.get("bits_per_byte") is not None else _RECALLED)).split()


def _holds(row, path: str) -> bool:
    for name in path.rstrip("?").split("."):
        if not isinstance(row, dict) or name not in row:
            return False
        row = row[name]
    return row is not None or path.endswith("?")


def rows_as_written(show):
    """`show(chosen)`, where a row that is not as `--out` writes it ends in a sentence, whatever is wrong in it."""

    @functools.wraps(show)
    def shown(chosen):
        try:
            return show(chosen)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            if isinstance(error, UsageError):
                raise
            what = f"A row of these files is not as --out writes it ({said(error)}): measure it anew."
            raise UsageError(what) from error

    return shown
