"""Views of the quality benchmark's rows: the line of a cell, the table, and the commands that measure them anew."""

import json
import statistics
from collections import defaultdict

# What others found at a task, and we in first trials: (task, some of its sizes, a sentence).
KNOWN = (
    (
        "mqar",
        {"vocab_size": 256, "length": 64, "pairs": 8, "d": 64},
        "To compare with: first trials, of the learning rate 0.003 and with the same convolution before every mixer, "
        "reached 99% at step 300 and 300 (softmax without positions, two seeds), 300 and 400 (Gated DeltaNet), 0.97 at "
        "the end and 600 (SSD), and 0.14 at the end (elu + 1), which at that rate stays there here too with two seeds "
        "of three, and learns at 0.01. Of 32 pairs in 128 tokens, which they were not taught, they then knew 0.97 and "
        "0.98, 0.73 and 0.70, 0.46 and 0.64, and 0.03: of softmax and SSD it is the same here, of elu + 1 more, for "
        "it learns, and of Gated DeltaNet less, of which we do not know why. A window of 16 had stayed at 1/K, for 700 "
        "steps. Here it does so at the rate 0.001; at 0.003 it leaves 1/K within 550 steps, towards those answers that "
        "two layers of it reach, and falls below 1/32 where texts have 128 tokens. Zoology (arXiv:2312.04927, width "
        "64, T 64, a vocabulary of 8,192, 4 pairs): attention 1.00, H3 0.93, an earlier RWKV 0.76.",
    ),
    (
        "mqar",
        {"vocab_size": 256, "length": 128, "pairs": 32, "d": 64},
        "How fast heads forget at first is what keeps SSD from learning here. Of Gated DeltaNet it is a part: with "
        "`fastest=1` it learns at 0.003, better with one seed than with the other, and at 0.01 not at all.",
    ),
    (
        "induction",
        {"length": 64, "d": 64},
        "To compare with: in first trials softmax and SSD reached 99% and a window 0.58; at four times the length "
        "softmax without positions still knew, and with rotary positions alone it did not.",
    ),
    (
        "lm",
        {},
        "To compare with: among larger models too DeltaNet stays behind (arXiv:2412.06464, table 3: a perplexity of "
        "17.71 on WikiText, where Mamba-2 has 16.56 and Gated DeltaNet 16.42).",
    ),
)
FORGETTING = (
    "As published, some heads of Mamba-2 and of Gated DeltaNet forget within a few tokens at first, and which do is "
    "drawn by the seed; with `fastest=1` all begin slowly."
)
# What rows of one line of a table share; they differ in seed and learning rate.
ALIKE = ("task", "sizes", "variant", "options", "match", "steps", "early_stop", "evaluated_every")
EVERY = 50  # steps between measurements, unless told
FEW = 3  # seeds, and learning rates, below which nothing is ranked


def line(row: dict) -> str:
    """One cell, as it is printed when it is done."""
    name = f"{row['task']} {sizes(row)} {row['variant']} seed {row['seed']} rate {row['learning_rate']:g}"
    if row["status"] != "ok":
        return f"{name}: {row['status']}. {row['reason']}"
    reached = f", 99% at {row['steps_to_99']}" if row["steps_to_99"] else ""
    transfer = "".join(f", {name} {right:.3f}" for name, right in row["transfer"].items())
    found = f"{row['bits_per_byte']:.3f} bits per byte" if row["accuracy"] is None else f"{row['accuracy']:.3f}"
    return f"{name}: {found} after {row['steps_run']} steps{reached}{transfer}; {row['cpu_seconds']} CPU s"


def best(rows: list[dict]) -> list[dict]:
    """One record for each task and variant: its seeds at the learning rate that is best on average over them.

    A rate that not all seeds have had yet is left aside: the mean of a lucky seed is no mean.
    """
    groups = defaultdict(lambda: defaultdict(list))
    for row in rows:
        groups[json.dumps([row.get(name) for name in ALIKE])][row["learning_rate"]].append(row)
    found = []
    for rates in groups.values():
        most = max(map(len, rates.values()))
        rates = {rate: cells for rate, cells in rates.items() if len(cells) == most}
        usable = {rate: cells for rate, cells in rates.items() if all(cell["status"] == "ok" for cell in cells)}
        if not usable:
            refused = next(cell for cells in rates.values() for cell in cells if cell["status"] != "ok")
            found.append({"row": refused, "seeds": [], "rates": sorted(rates)})
            continue
        rate = max(usable, key=lambda rate: statistics.mean(map(score, usable[rate])))
        found.append({"row": usable[rate][0], "seeds": usable[rate], "rates": sorted(rates)})
    return found


def score(row: dict) -> float:
    """More is better: accuracy, or fewer bits."""
    return -row["bits_per_byte"] if row["accuracy"] is None else row["accuracy"]


def table(rows: list[dict]) -> str:
    """Markdown: for each task its chance lines, and a line for each variant, the best first."""
    tasks = defaultdict(list)
    for record in best(rows):
        row = record["row"]
        tasks[f"{row['task']}, {sizes(row)}, {_steps(row)}{match(row)}"].append(record)
    return "\n\n".join(_task(title, records) for title, records in tasks.items())


def _task(title, records):
    ranked = sorted(records, key=lambda r: -statistics.mean(map(score, r["seeds"])) if r["seeds"] else 9e9)
    done = [record["row"] for record in ranked if record["seeds"]]
    text = [f"**{title}**"]
    if done and done[0]["chance"]:
        token, value = (done[0]["chance"][name] for name in ("token", "value"))
        text.append(f"Chance: any token {token:.3f}; knows the values and not the binding {value:.3f}.")
    if not all(map(ranks, ranked)):
        text.append(f"Fewer than {FEW} seeds or learning rates: this sizes the task, and ranks nothing.")
    if done and _may_end(done[0]):
        text.append(
            "A run ends at 99%: its accuracy, and what it knows of longer texts, are of the step that reached it."
        )
    text += filter(None, [_where([cell for record in ranked for cell in record["seeds"]])])
    first = ranked[0]["row"]
    for task, of_sizes, sentence in KNOWN:
        if first["task"] == task and not first["match"] and of_sizes.items() <= first["sizes"].items():
            text.append(sentence)
    text += [FORGETTING] * any("fastest" in row["options"] for row in done)
    for row in done:
        if (row["within_reach"] or 1.0) < 1.0:  # by distance; where a chunk ends may leave less
            share, value = row["within_reach"], row["chance"]["value"]
            text.append(
                f"{row['variant']} reaches {share:.0%} of the answers: {share + (1 - share) * value:.3f} at best."
            )
    far = list(done[0]["transfer"]) if done else []
    recalled = not done or done[0]["accuracy"] is not None
    learnt = ["accuracy", "seeds", "99% at step", *far] if recalled else ["bits per byte", "seeds"]
    costs, sentence = _costs([record for record in ranked if record["seeds"]])
    text += filter(None, [sentence])
    head = ["variant", "convolution", *learnt, "rate", "parameters", "state bytes", *["CPU s a step"] * bool(costs)]
    lines = [head, ["---"] * len(head)]
    for record in ranked:
        row, seeds = record["row"], record["seeds"]
        if not seeds:
            lines.append([row["variant"], f"{row['status']}: {row['reason']}"] + [""] * (len(head) - 2))
            continue
        lines.append(
            [
                row["variant"] if not row["matched"] else f"{row['variant']} ({_how_near(row)})",
                row["convolution"],
                _spread([abs(score(cell)) for cell in seeds]),
                str(len(seeds)),
                *[", ".join(str(cell["steps_to_99"] or "—") for cell in seeds)] * recalled,
                *(_spread([cell["transfer"][name] for cell in seeds]) for name in far),
                f"{row['learning_rate']:g}{'†' * _at_an_end(record)}",
                f"{row['parameters']:,}",
                f"{row['state_bytes']:,}",
                *([f"{costs[row['variant']]:.4f}"] if costs else []),
            ]
        )
    if any(record["seeds"] and _at_an_end(record) for record in ranked):
        text.append("† The lowest or the highest rate that every seed had: one beyond it may be better.")
    escaped = ([cell.replace("|", "\\|") for cell in cells] for cells in lines)
    return "\n\n".join([*text, "\n".join(f"| {' | '.join(cells)} |" for cells in escaped)])


def _costs(records):
    """What a step of each variant takes, and a sentence on where; no times where not all are of one machine."""
    steps = {record["row"]["variant"]: record["seeds"][0].get("step") for record in records}
    places = {cell["environment"].get("cpu") for record in records for cell in record["seeds"]}
    if steps and all(steps.values()):
        runs = {tuple(step[name] for name in ("cpu", "date", "load", "git")) for step in steps.values()}
        if len(runs) == 1:
            ((cpu, date, *_),) = runs
            sentence = f"Steps were timed in turn on {cpu}, {date}, by `--cost`."
            return {name: step["median"] for name, step in steps.items()}, sentence
    elif len(places) == 1:
        found = ((record["row"]["variant"], record["seeds"]) for record in records)
        return {name: statistics.median(cell["cpu_seconds_a_step"] for cell in cells) for name, cells in found}, ""
    several = "Not all steps were timed in one run, so no time is shown: `--cost` takes them in turn."
    return {}, several if steps else ""


def _steps(row):
    every = row.get("evaluated_every", EVERY)
    return f"{'up to ' * _may_end(row)}{row['steps']} steps" + f", measured every {every}" * (every != EVERY)


def _may_end(row):
    """Whether a run ends when it has learnt: those that are told to, of tasks with right answers."""
    return row.get("early_stop", True) and row["task"] != "lm"


def _at_an_end(record):
    """Whether the best rate is the lowest or the highest of several, so that one beyond it may be better."""
    return len(record["rates"]) > 1 and record["row"]["learning_rate"] in (record["rates"][0], record["rates"][-1])


def ranks(record: dict) -> bool:
    """Whether a record of `best` has seeds and learning rates enough to be ranked."""
    return min(len(record["seeds"]), len(record["rates"])) >= FEW


def _where(cells):
    """On which processors these were learnt, and beside how much else; rows of others may not say."""
    days, found = defaultdict(list), [cell["environment"] for cell in cells if cell["environment"].get("cpu")]
    for environment in found:
        days[environment["cpu"].strip()].append(environment["date"])
    spans = {cpu: " to ".join(sorted({min(some), max(some)})) for cpu, some in days.items()}
    places = "; ".join(f"{cpu}, {spans[cpu]}, {len(some)} cell{'s' * (len(some) > 1)}" for cpu, some in days.items())
    most = max((environment["load"] or 0.0 for environment in found), default=0.0)
    return f"Shown is what was learnt on {places}, at a load of the machine of up to {most:.1f}." if found else ""


def commands(rows: list[dict]) -> list[str]:
    """The command lines that measure these rows anew: one for what was asked of several variants alike.

    Into a file of their own, for what stands in the file of results is not measured again.
    """
    from benchmarks.attention.quality import PRESETS
    from benchmarks.attention.quality_tasks import TASKS

    asked = defaultdict(set)
    for row in (row for row in rows if row["task"] in TASKS):
        usual = TASKS[row["task"]].sizes | {"steps": TASKS[row["task"]].steps}
        others = [f"{k}={v}" for k, v in (row["sizes"] | {"steps": row["steps"]}).items() if v != usual.get(k)]
        task = ":".join(filter(None, [row["task"], ",".join(others)]))
        flags = f" --match {row['match']['what']} --like {row['match']['like']}" if row["match"] else ""
        every = row.get("evaluated_every", EVERY)
        flags += f" --every {every}" * (every != EVERY) + " --no-early-stop" * (not row.get("early_stop", True))
        asked[task, flags, row["variant"]].add((row["seed"], row["learning_rate"]))
    groups = defaultdict(list)
    for (task, flags, variant), cells in asked.items():
        seeds, rates = (tuple(sorted(set(numbers))) for numbers in zip(*cells, strict=True))
        groups[task, flags, seeds, rates].append(variant)
    found = []
    for (task, flags, seeds, rates), variants in groups.items():
        told = "" if set(variants) == set(PRESETS["smoke"].variants) else f" --variants {' '.join(variants)}"
        many = f" --seeds {' '.join(map(str, seeds))} --rates {' '.join(f'{rate:g}' for rate in rates)}"
        found.append(f"minilm bench attention quality --tasks {task}{told}{many}{flags} --out anew.jsonl")
    return found


def sizes(row: dict) -> str:
    """The sizes of a task, in letters."""
    known = {"vocab_size": "V", "length": "T", "pairs": "K", "d": "d", "heads": "heads ", "layers": "layers "}
    known |= {"embedding": "embedding ", "branches": "branches "}
    return " ".join(f"{letter}{row['sizes'][name]}" for name, letter in known.items() if name in row["sizes"])


def match(row: dict) -> str:
    """What was made to agree, and with whom."""
    return f", {row['match']['what']} as {row['match']['like']}" if row["match"] else ""


def _how_near(row):
    return f"{row['matched']['mixer']}, d {row['matched']['d']}, {100 * row['matched']['off']:+.1f}%"


def _spread(values):
    mean, low, high = statistics.mean(values), min(values), max(values)
    return f"{mean:.3f}" if low == high else f"{mean:.3f} ({low:.3f}–{high:.3f})"
