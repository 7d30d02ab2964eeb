"""One mutant at a time in the live process, and the tests that cover it: what a worker of `tests.mutation` does."""

import ast
import contextlib
import gc
import importlib
import inspect
import json
import os
import signal
import time
from collections import Counter
from pathlib import Path
from types import CodeType, FunctionType

import pytest

from tests.mutants import Mutant, mutants_of, mutated

ROOT = Path(__file__).parent.parent
TARGETS = ("layers", "reference", "losses.py", "sampling.py", "generation.py", "initializers.py", "precision.py")
# The tests of a module beside the laws of its records and those in `test_<its name>.py`. Where two modules have one
# name, the one inside a folder is told with it, and its tests are those given here alone. Behind a bracket stands how
# the names of parameters begin, where those of one variant are enough.
TESTS = {
    "core": ["attention", "softmax_variants"],
    "multi_head": ["attention", "softmax_variants", "variants"],
    "elman": ["recurrent"],
    "gru": ["recurrent"],
    "lstm": ["recurrent"],
    "feed_forward": ["activation"],
    "optimizers": ["muon"],
    "additive": ["alignment"],
    "multiplicative": ["alignment"],
    "decoders": ["seq2seq"],
    "soft_cap": ["softmax_variants"],
    "sinks": ["softmax_variants"],
    "sigmoid": ["softmax_variants"],
    "top_k": ["softmax_variants"],
    "talking_heads": ["softmax_variants"],
    "qk_norm": ["softmax_variants"],
    "rotary": ["rotary_attend"],
    "block_selection": ["selection"],
    "attention.gated": ["gated_output"],
    "decay": ["state_precision"],
    "feature_maps": ["state_precision"],
    "delta": ["state_precision"],
    "rwkv": ["state_precision", "variants[rwkv6"],
    "linear_attention.gated": ["gated_linear", "state_precision"],
    "state_mixer": ["rwkv", "gated_linear"],
    "linear_attention.linear": ["linear_attention", "exponents", "state_precision"],
    "mamba": ["linear_attention", "variants[mamba2"],
    "retention": ["linear_attention", "variants[retnet"],
    "convolved": ["convolution"],
    "chunks": ["decay", "delta"],
    "loop": ["decay", "delta"],
    "delta_net": ["delta", "variants[delta-net"],
    "latent": ["variants[mla"],
    "native_sparse": ["variants[nsa"],
}
# Loops run compiled, for uncompiled they are other code; samplers too, whose settings become arrays on the way.
COMPILED = ("blockwise", "pallas", "unroll", "generation", "sampling")
DEFAULTS = "tests/test_architecture.py::test_the_reference_takes_the_same_arguments_with_the_same_defaults"
NO_WITNESS = "fails without a mutant"  # as what counts compilations does where nothing is compiled
ALARM = 20  # seconds of computing that a test may take; an endless loop is a bug noticed


class TooLongError(BaseException):
    """The alarm rang. No Exception, so that nothing in between takes it for a result."""


def targets() -> list[str]:
    """The modules under mutation."""
    paths = [ROOT / "minilm" / name for name in TARGETS]
    files = [file for path in paths for file in ([path] if path.is_file() else sorted(path.rglob("*.py")))]
    return [str(file.relative_to(ROOT)) for file in files if file.name != "__init__.py"]


def place(path: str) -> str:
    """What a module and its reference are both called: `attention.core`."""
    path = path.removeprefix("minilm/").removeprefix("layers/").removeprefix("reference/")
    return path.removesuffix(".py").replace("/", ".")


def test_files(path: str) -> list[str]:
    """The files with tests of a module."""
    files = [file for file, _ in tests_of(path)]
    return [file for file in ["tests/test_layers.py", *files, path] if (ROOT / file).exists()]


def record_files(path: str) -> list[str]:
    """The file with a module's records for the laws of layers, if it has any."""
    names = place(path).replace(".", "_"), Path(path).stem  # `attention_core`, but `gru`
    files = [f"tests/records/{name}.py" for name in names if (ROOT / f"tests/records/{name}.py").exists()]
    return files[:1]


def tests_of(path: str) -> list[tuple[str, str]]:
    """A module's own test files, each with what stands in the names of those that are asked."""
    stem = Path(path).stem
    own = None if place(path) == stem else TESTS.get(place(path))
    parts = (name.partition("[") for name in own or [stem, *TESTS.get(stem, [])])
    return [(f"tests/test_{name}.py", bracket + start) for name, bracket, start in parts]


@contextlib.contextmanager
def planted(mutant: Mutant):
    """The mutant's code in the live function, and in those that it made before, for as long as the context lasts.

    Those are not reached whose mutant captures other names, for a closure cannot be given new ones.
    """
    live, new = _live_and_new(mutant)
    names = "__code__", "__defaults__", "__kwdefaults__"
    swaps = [(live, name, getattr(live, name), getattr(new, name)) for name in names]
    swaps += [(made, "__code__", old, code) for made, old, code in _made_before(live, new)]
    try:
        for function, name, _, changed in swaps:
            setattr(function, name, changed)
        yield
    finally:
        for function, name, old, _ in swaps:
            setattr(function, name, old)
        for made, _, old in _made_before(new, live):  # what was made meanwhile, and is kept in some cache
            made.__code__ = old


def _live_and_new(mutant):
    module = importlib.import_module(mutant.path.removesuffix(".py").replace("/", "."))
    owner, _, name = mutant.function.rpartition(".")
    live = vars(getattr(module, owner) if owner else module)[name]
    namespace = dict(vars(module))
    exec(compile(ast.Module([mutated(mutant, ROOT)], []), mutant.path, "exec"), namespace)
    return inspect.unwrap(getattr(live, "fget", None) or getattr(live, "__func__", live)), namespace[name]


def _made_before(live, new):
    """(function, its code, the code in its place): a mixer that a test file holds was made when it was imported."""
    pairs = zip(_within(live.__code__), _within(new.__code__), strict=False)
    changed = {old: code for old, code in pairs if old != code and _place(old) == _place(code)}
    made = gc.get_referrers(*changed) if changed else []
    return [(f, f.__code__, changed[f.__code__]) for f in made if isinstance(f, FunctionType) and f.__code__ in changed]


def _place(code):
    return code.co_name, code.co_firstlineno, code.co_freevars


def _within(code):
    for inner in filter(lambda constant: isinstance(constant, CodeType), code.co_consts):
        yield inner
        yield from _within(inner)


class Runner:
    """A plugin of pytest: instead of each test once, the tests that cover each mutant, until one fails."""

    def __init__(self, mutants: list[Mutant], report, seconds: float):
        self.mutants, self.report, self.until = mutants, report, time.monotonic() + seconds
        self.sound, self.kills = {}, Counter()

    def pytest_configure(self, config):
        from hypothesis import Phase, settings

        phases = (Phase.explicit, Phase.generate)  # to shrink a failure would take most of the time
        base = settings.get_profile("minilm")
        settings.register_profile("mutation", base, phases=phases, max_examples=10, report_multiple_bugs=False)
        settings.load_profile("mutation")
        config.option.tbstyle = "native"  # nobody reads why a test failed, and to tell it at length takes time

    def pytest_runtestloop(self, session):
        import jax

        signal.signal(signal.SIGPROF, _ring)
        path = None
        for mutant in self.mutants:
            if time.monotonic() > self.until:
                break
            if mutant.path != path:
                jax.clear_caches()  # programs of modules that are done would fill gigabytes
                path = mutant.path
            items = sorted(filter(_covers(mutant), session.items), key=self.promise(mutant))
            compiled = Path(mutant.path).stem in COMPILED
            is_jax = "reference" not in mutant.path
            with jax.disable_jit(is_jax and not compiled):
                killer = self.first_failure(mutant, items, clear=is_jax and (compiled or "recurrent" in mutant.path))
            self.report(mutant.name, killer or "survived")
        return True

    def first_failure(self, mutant, items, clear):
        """The name of the first test that notices the mutant and passes without it; None if all miss it."""
        import jax

        for item in items:
            self.report(mutant.name, "started")  # anew for each test: many slow ones together hang nowhere
            with planted(mutant):
                if clear:
                    jax.clear_caches()
                noticed = not _passes(item)
            if noticed:
                run = item.nodeid, jax.config.jax_disable_jit  # what passes compiled may not pass uncompiled
                if run not in self.sound:
                    if clear:
                        jax.clear_caches()
                    self.sound[run] = _passes(item)
                    if not self.sound[run]:
                        self.report(item.nodeid, NO_WITNESS)
                if self.sound[run]:
                    self.kills[mutant.function, item.nodeid] += 1
                    return item.nodeid
        return None

    def promise(self, mutant):
        """The order of tests: those that noticed other mutants of the function, then those of its own record."""
        record = f"[{place(mutant.path)}.{mutant.function.removesuffix('_backward')}"
        starts = mutant.function.startswith("init_")  # initial values have no record; their tests say so

        def key(item):
            own = record in item.nodeid or (starts and "initial" in item.nodeid)
            return -self.kills[mutant.function, item.nodeid], not own

        return key


def _ring(*_):
    raise TooLongError


def _passes(item) -> bool:
    from _pytest.runner import runtestprotocol

    item._initrequest()
    if doctest := getattr(item, "dtest", None):  # it forgets its names when it has run
        doctest.globs = vars(item).setdefault("names", dict(doctest.globs)).copy()
    signal.setitimer(signal.ITIMER_PROF, ALARM, 5)  # and again, should something swallow the first
    try:
        return all(report.passed or report.skipped for report in runtestprotocol(item, log=False, nextitem=None))
    except BaseException:  # the alarm, or what became of it in pytest's hands
        with contextlib.suppress(BaseException):
            item.session._setupstate.teardown_exact(None)
        return False
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _covers(mutant):
    asked, prefix = [*tests_of(mutant.path), (mutant.path, "")], f"{place(mutant.path)}."
    signature = f"{DEFAULTS}[{prefix}{mutant.function}]"

    def covers(item):
        record = getattr(item, "callspec", None) and item.callspec.params.get("record")
        if item.nodeid.startswith("tests/test_layers.py"):
            return record is not None and record.name.startswith(prefix)
        file = item.nodeid.split("::")[0]
        return item.nodeid == signature or any(file == own and start in item.nodeid for own, start in asked)

    return covers


def work(orders: str, seconds: float):
    """What a worker does: run the mutants named in a file, one line of JSON for each event."""
    by_name = {mutant.name: mutant for path in targets() for mutant in mutants_of(path, ROOT)}
    mutants = [by_name[name] for name in json.loads(Path(orders).read_text())]

    def report(name, outcome):
        print(json.dumps([name, outcome]), file=out, flush=True)

    files = [*sorted({file for mutant in mutants for file in test_files(mutant.path)}), DEFAULTS]
    plugins = ("xdist", "cacheprovider", "terminal", "unraisableexception")  # an alarm within a finaliser is none
    options = [*(f"-pno:{plugin}" for plugin in plugins), "--doctest-modules", "-o", "addopts=", "-m", "not slow"]
    options.append("--assert=plain")
    # pytest and the tests print where they like: to nowhere.
    with open(os.devnull, "w") as nowhere, os.fdopen(os.dup(1), "w") as out:
        os.dup2(nowhere.fileno(), 1)
        return pytest.main([*options, *files], plugins=[Runner(mutants, report, seconds)])
