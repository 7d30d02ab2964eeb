"""float64 throughout, shapes checked at run time, Hypothesis without a clock, and a compiler that does not linger."""

import gc
import os
from importlib.metadata import version
from pathlib import Path

# A test compiles a function and runs it a few times on small arrays: optimizing it would take longer than it saves.
FLAGS = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
if version("jaxlib").startswith("0.10."):  # the older way to compile loops, gone since, takes two thirds of the time
    FLAGS += " --xla_cpu_use_fusion_emitters=false"
    FLAGS += " --xla_cpu_parallel_codegen_split_count=1"  # in one part a small program takes five sixths of the time
else:  # unless it is wrapped for the newer way, an operation by itself is compiled the older one: a tenth less time
    FLAGS += " --xla_disable_hlo_passes=fusion-wrapper"
os.environ.setdefault("XLA_FLAGS", FLAGS)

import jax
import pytest
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

jax.config.update("jax_enable_x64", True)

# What one worker has compiled the other need not, nor the next run; to keep every small program would cost more.
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parent.parent / ".pytest_cache/compiled"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

# Every annotated function of minilm is checked against its own letters, in the tests only.
install_import_hook("minilm", "beartype.beartype")

# A first example compiles for seconds, so time is no sign of trouble; shrinking still is worth its time.
settings.register_profile(
    "minilm", deadline=None, max_examples=10, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
settings.register_profile("thorough", parent=settings.get_profile("minilm"), max_examples=200, derandomize=False)
settings.register_profile("brief", parent=settings.get_profile("minilm"), max_examples=3)
settings.load_profile("minilm")

# What is alive for good, modules and what they cache, is looked through again and again unless collections are rare.
gc.set_threshold(100_000, 20, 50)
FORGETTING = 200  # tests, after which there are some 15,000 memory maps, of the 65,530 that Linux allows a process


def pytest_collection_modifyitems(items):
    """All tests of a record in a row: what the first compiles, the others find."""
    places = {}
    for place, item in enumerate(items):
        places.setdefault(_subject(item), place)
    items.sort(key=lambda item: places[_subject(item)])


def pytest_runtest_teardown(item, nextitem):
    """Compiled programs are forgotten now and then: each holds memory maps."""
    done = item.session.stash[DONE] = item.session.stash.get(DONE, 0) + 1
    if done >= FORGETTING and nextitem is not None and _subject(item) != _subject(nextitem):
        item.session.stash[DONE] = 0
        jax.clear_caches()
        gc.collect()


DONE = pytest.StashKey[int]()


def _subject(item):
    """The file, and the record that it is asked about."""
    record = getattr(item, "callspec", None) and item.callspec.params.get("record")
    return item.path, getattr(record, "name", None)
