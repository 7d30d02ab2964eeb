"""The command line: it parses, calls and prints. Every command imports what it needs, so that `--help` loads no JAX."""

import errno
import os
import sys
from dataclasses import replace
from pathlib import Path

from minilm import __version__
from minilm.config import PRESETS
from minilm.flags import OVERVIEW, UsageError, check_generate, check_info, nearest, parse
from minilm.interruption import run_child, signal_of, terminable, unbroken
from minilm.run_folder import latest_run
from minilm.unread import UNREAD, nobody_reads, written_out


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return 0, or 1 for an error, or 2 for a command line that cannot be understood.

    What a user can cause ends in one sentence on standard error. Set MINILM_TRACEBACK=1 to see where it came from.
    """
    try:
        with terminable(), written_out():
            return _run(sys.argv[1:] if arguments is None else arguments)
    except UsageError as error:
        return _refuse(error, 2)
    except BrokenPipeError:
        nobody_reads(sys.stdout)
        return UNREAD
    except (ValueError, OSError, ArithmeticError, MemoryError, RuntimeError) as error:
        return _refuse(error, 1)
    except KeyboardInterrupt as interrupt:
        print("minilm: interrupted.", file=sys.stderr)
        return 128 + signal_of(interrupt)


def _run(arguments):
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(OVERVIEW)
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"minilm {__version__}")
        return 0
    command, *rest = arguments
    if command not in COMMANDS:
        known = ", ".join(COMMANDS)
        raise UsageError(f"There is no command {command!r}{nearest(command, COMMANDS)}; there are {known}.")
    return COMMANDS[command](rest) or 0


def train(arguments: list[str]) -> int | None:
    """Train; on a GPU or TPU, where no preset is named, the preset made for one."""
    chosen = parse("train", arguments)
    _prepare()
    from minilm import trainer

    if chosen.resume:
        step = "last" if chosen.from_step < 0 else chosen.from_step
        return trainer.resume(_run_folder(chosen.resume), chosen.config, step).exit_code
    if not chosen.preset:
        chosen = parse("train", arguments, preset=trainer.default_preset())
    return trainer.train(chosen.config).exit_code


def generate(arguments: list[str]) -> int | None:
    """Continue a prompt, token by token."""
    chosen = parse("generate", arguments)
    check_generate(chosen)
    prompt = _text(chosen.prompt).rstrip("\n") if chosen.prompt == "-" else chosen.prompt
    _prepare()
    import jax

    from minilm import generation
    from minilm.checkpoint import load_run, passed_over
    from minilm.sampling import EVERY, Sampler

    folder = _run_folder(chosen.run)
    run = load_run(folder, chosen.step)
    for damaged in passed_over(folder) if chosen.step == "best" else ():
        print(
            f"({damaged} is damaged, or not of this run, and was passed over for step {run.manifest.step}.)",
            file=sys.stderr,
        )
    if chosen.beams:
        return _search(run, prompt, chosen)
    top_k = chosen.top_k or EVERY
    sampler = Sampler(chosen.temperature, top_k, chosen.top_p, chosen.min_p, chosen.repetition_penalty)
    for sample in range(chosen.samples):
        pieces = generation.stream_text(
            run.model,
            run.params,
            run.config,
            run.tokenizer,
            prompt,
            max_new_tokens=chosen.max_new_tokens,
            sampler=sampler,
            key=jax.random.fold_in(jax.random.key(chosen.seed), sample),
            stop=chosen.stop,
        )
        if _print_pieces(prompt, pieces) == "context":
            print(f"(The model's context of {run.config.context_length} tokens is full.)", file=sys.stderr)
    return 0


def tokenize(arguments: list[str]) -> int | None:
    """Show the tokens of a text: each piece on its own ground, then the ids."""
    chosen = parse("tokenize", arguments)
    text = _text(chosen.text)
    tokenizer = _tokenizer(chosen.tokenizer)
    ids = tokenizer.encode(text).tolist()
    if chosen.ids_only:
        print(*ids)
        return 0
    from rich.text import Text

    from minilm.console import CommandConsole

    console, line = CommandConsole(highlight=False), Text()
    grounds = ["on dark_blue", "on dark_green", "on dark_magenta", "on dark_cyan"]
    for place, i in enumerate(ids):
        piece = tokenizer.token_bytes[i].decode("utf-8", "backslashreplace")
        line.append(piece.replace("\n", "⏎\n"), style=f"white {grounds[place % len(grounds)]}")
        if not console.is_terminal and place + 1 < len(ids):
            line.append("|")
    console.print(line, soft_wrap=True)
    console.print(*ids, soft_wrap=True)
    n_bytes = len(text.encode())
    share = f", {n_bytes / len(ids):.2f} bytes a token" if ids else ""
    console.print(f"{len(ids)} tokens of {tokenizer.vocab_size}, {n_bytes} bytes{share}", style="dim")
    return 0


def fetch(arguments: list[str]) -> int | None:
    """List the data sets, or take one and print its folder, alone on standard output."""
    chosen = parse("fetch", arguments)
    from minilm.data.datasets import DATASETS
    from minilm.data.fetch import cache_folder, fetch, is_here

    if chosen.name and chosen.name not in DATASETS:
        close = nearest(chosen.name, DATASETS)
        raise UsageError(f"There is no data set {chosen.name!r}{close}; there are {', '.join(DATASETS)}.")
    if chosen.name:
        print(fetch(chosen.name))
        return 0
    for name, dataset in DATASETS.items():
        print(f"{name:18}{dataset.about}")
        print(f"{'':18}{dataset.source.size / 1e6:.1f} MB from {dataset.source}")
        print(f"{'':18}{dataset.terms}; see {dataset.home}")
        print(f"{'':18}{'in the cache' if is_here(dataset) else 'not taken yet'}\n")
    print(f"minilm fetch NAME takes one into {cache_folder() / 'data'}, where it stays.")
    return 0


def bench(arguments: list[str]) -> int | None:
    """Run a benchmark, or list them with their committed results."""
    # What the benchmark is told is its own affair, so only the name is read here.
    parse("bench", arguments[:1])
    folder = Path(__file__).parent.parent / "benchmarks"
    if not folder.is_dir():
        raise FileNotFoundError(
            "The benchmarks are scripts of the repository, which the installed package leaves out: "
            "clone it, and run this command there."
        )
    files = [path for path in folder.glob("*.py") if '__name__ == "__main__"' in path.read_text()]
    packages = {path.parent.name: path for path in folder.glob("*/__main__.py")}
    scripts = dict(sorted(({path.stem: path for path in files} | packages).items()))
    if not arguments:
        for name, path in scripts.items():
            print(f"{name:22}{path.read_text().strip().splitlines()[0].strip(chr(34))}")
            for result in sorted((folder / "results").glob(f"{name}*")):
                print(f"{'':22}measured: {result.relative_to(folder.parent)}")
        print("\nminilm bench NAME measures it here.")
        return 0
    name, *rest = arguments
    if name not in scripts:
        raise UsageError(f"There is no benchmark {name!r}{nearest(name, scripts)}; there are {', '.join(scripts)}.")
    # It runs where the user stands, so that paths mean what they say; -P, so that no file there passes for a module.
    paths = [str(folder.parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    return run_child([sys.executable, "-P", "-m", f"benchmarks.{name}", *rest], environment)


def info(arguments: list[str]) -> int | None:
    """Show the devices; plan a preset or a run."""
    chosen = parse("info", arguments)
    check_info(chosen)
    _prepare()
    from minilm import run_folder
    from minilm.console import CommandConsole
    from minilm.info import show_devices, show_plan

    console = CommandConsole()
    show_devices(console)
    if chosen.run:
        folder = _run_folder(chosen.run)
        config = run_folder.read_config(folder)
        name, (model, model_config) = str(folder), run_folder.read_model(folder)
    elif chosen.preset:
        config = PRESETS[chosen.preset]
        name, model = f"preset {chosen.preset}", run_folder.model_named(config.architecture.model)
        model_config = run_folder.model_config(config.architecture, config.data.vocab_size)
    else:
        print(
            f"\nminilm info --preset NAME plans one of {', '.join(PRESETS)}; --run latest plans the model you trained."
        )
        return 0
    if chosen.batch_size:
        config = replace(config, batch_size=chosen.batch_size, accumulate=1)
    show_plan(console, name, model, model_config, config, chosen.measure)
    return 0


COMMANDS = {
    "train": train,
    "generate": generate,
    "tokenize": tokenize,
    "fetch": fetch,
    "bench": bench,
    "info": info,
}


# ── what the commands share ──────────────────────────────────────────────────────────────────────────────────────────


def _prepare():
    """Load JAX, when the allocator is settled, and where compiled programs are kept from run to run."""
    from minilm import allocator
    from minilm.data.fetch import cache_folder

    allocator.tune()
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_folder() / "compiled"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
    with unbroken():
        import jax  # noqa: F401


def _text(argument):
    if argument != "-":
        return argument
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"Standard input is no UTF-8 text: byte {error.start} does not fit.") from None


def _run_folder(name):
    if name in ("", "latest"):
        return latest_run()
    if not Path(name).is_dir():
        runs = [str(path) for path in Path("runs").glob("*")]
        raise FileNotFoundError(f"There is no folder {name}{nearest(name, runs)}: give that of a run, as under runs/.")
    return Path(name)


def _tokenizer(name):
    from minilm.data.tokenizers import ByteTokenizer, load

    if name == "byte":
        return ByteTokenizer()
    path = Path(name) if name else _run_folder("")
    return load(path / "tokenizer.json" if path.is_dir() else path)


def _search(run, prompt, chosen):
    from minilm import generation
    from minilm.beam import beam_search

    found = beam_search(
        run.model,
        run.params,
        run.config,
        generation.encode_prompt(run.tokenizer, prompt),
        beams=chosen.beams,
        max_new_tokens=chosen.max_new_tokens,
        length_penalty=chosen.length_penalty,
        end_token=run.tokenizer.end_of_text,
    )
    for hypothesis in found[: chosen.samples]:
        print(f"{prompt}{run.tokenizer.decode(hypothesis.tokens)}")
        print(f"(score {hypothesis.score:.3f})", file=sys.stderr)
    return 0


def _print_pieces(prompt, pieces):
    """The prompt with its continuation; nothing before the first piece, so that a refusal stands alone."""
    before = prompt
    while True:
        try:
            piece = next(pieces)
        except StopIteration as end:
            print(flush=True)
            return end.value
        print(before + piece, end="", flush=True)
        before = ""


def _refuse(error, code):
    foreseen = not isinstance(error, RuntimeError) or "RESOURCE_EXHAUSTED" in str(error)  # which is JAX's MemoryError
    if os.environ.get("MINILM_TRACEBACK") or not foreseen:
        raise error
    filename = getattr(error, "filename", None)
    if getattr(error, "errno", None) == errno.ENOSPC:  # as the system says it, which names no file and no way on
        where = f" for {filename}" if filename else ""
        error = f"No space is left on the device{where}: make room, and say the same again."
    elif isinstance(error, OSError) and error.strerror:  # as the system says it, a number first
        error = f"{filename or 'A file that is needed'} cannot be used: {error.strerror}."
    elif isinstance(error, MemoryError | RuntimeError):
        what = f" ({str(error).splitlines()[0].strip(' .')})" if str(error) else ""
        error = (
            f"There is not enough memory for that{what}: ask for less at once; in training by a smaller --batch-size, "
            f"a larger --accumulate or a shorter --context-length."
        )
    print(f"minilm: {error}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
