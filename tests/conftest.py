"""float64 throughout, shapes checked at run time, Hypothesis without a clock, and a compiler that does not linger."""

import os
from pathlib import Path

# A test compiles a function and runs it a few times on small arrays: optimizing it would take longer than it saves.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")

import jax
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

jax.config.update("jax_enable_x64", True)

# More than half of the tests' time is compilation. What one worker has compiled the other need not, nor the next run.
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parent.parent / ".pytest_cache/compiled"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

# Every annotated function of minilm is checked against its own letters, in the tests only.
install_import_hook("minilm", "beartype.beartype")

# A first example compiles for seconds, so time is no sign of trouble; shrinking still is worth its time.
settings.register_profile(
    "minilm", deadline=None, max_examples=10, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
settings.register_profile("thorough", parent=settings.get_profile("minilm"), max_examples=200, derandomize=False)
settings.load_profile("minilm")
