"""What the house promises about itself: where imports go, that each layer has four forms, and what no file holds."""

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import jax
import pytest

import minilm
from minilm.variants import VARIANTS
from tests.records import all_records

ROOT = Path(__file__).parent.parent
LONGEST_FILE = 320
LONGEST_TEST = 360  # theorems stand beside each other, and are read one at a time
LONGEST_VARIANT = 20  # lines of a function of attention, without its docstring and comments
TOP_LEVEL = {"pyproject.toml", "README.md", "CHANGELOG.md", "minilm", "tests", "benchmarks", "examples"}
# How a kernel is computed in tiles is longer than what it computes.
LONG_KERNELS = {
    "minilm/layers/attention": [
        "minilm/layers/attention/blockwise.py: _attention_backward",
        "minilm/layers/attention/pallas.py: _launch",
    ]
}

# From the bottom of the house to the top. A module imports from its own floor and those below.
FLOORS = {
    "shapes": 0,
    "pytrees": 0,
    "config": 0,
    "initializers": 1,
    "data": 1,
    "layers": 2,
    "losses": 3,
    "variants": 3,
    "models": 4,
    "cli": 6,
    "__main__": 7,
}
FLOORS |= {"metrics": 0, "reference": 0}  # of numbers alone, so that those above may take them
FLOORS |= {"backends": 3, "sentences": 0}
UNNAMED_FLOOR = 5

# What is not compiled by itself: a fused elementwise function costs less, functions are no arguments of a compiled one.
ELEMENTWISE = ("relu", "squared_relu", "gelu", "gelu_tanh", "silu", "sigmoid", "tanh")
OVER_A_CELL = ("unroll", "unroll_reverse", "bidirectional", "stacked", "truncated_unroll")
OVER_AN_ATTENTION = ("multi_head.multi_head", "multi_head.multi_head_step", "cache.append_and_attend")
OVER_A_STEP = ("linear_attention.loop.loop",)
FREQUENCIES = ("rotary", "linear", "ntk", "dynamic_ntk", "yarn", "llama3")
OF_NUMBERS = {  # Python numbers in, Python numbers or NumPy arrays out
    "attention.biases.alibi_slopes",
    "attention.ring.zigzag",
    "linear_attention.retention.retention_decays",
    *(f"rotary_scaling.{name}_frequencies" for name in FREQUENCIES),
}
INTERPRETED = {
    *(f"activation.{name}" for name in ELEMENTWISE),
    *(f"recurrent.unroll.{name}" for name in OVER_A_CELL),
    *(f"attention.{name}" for name in OVER_AN_ATTENTION),
    *OVER_A_STEP,
    *OF_NUMBERS,
}

# What has no gradient: integers, choices, and what is a gradient itself.
GRADIENTS = ("attention.blockwise.blockwise_gradients",)
CHOICES = ("block_selection.largest", "block_selection.moba_mask", "native_sparse.selected_blocks")
NOT_DIFFERENTIABLE = {"attention.biases.t5_bucket", *OF_NUMBERS, *GRADIENTS, *(f"attention.{name}" for name in CHOICES)}
# What has no record: its law needs no arrays (see tests/test_biases.py).
NO_RECORD = OF_NUMBERS
# What has no reference of its own: between devices it is what `blockwise_attention`, or any attention, is on one
# (see tests/test_ring.py).
COLLECTIVE = {"attention.ring.ring_attention", "attention.ring.ulysses_attention"}


@cache
def sources() -> dict[str, str]:
    """Every Python file that git tracks or would track, path -> text."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    return {path: (ROOT / path).read_text() for path in listed if path.endswith(".py") and (ROOT / path).exists()}


def trees(folder: str):
    return [(path, ast.parse(text)) for path, text in sources().items() if path.startswith(folder)]


def imported(tree):
    """The dotted names that a module imports, also inside its functions; (name, whether at its top)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((name.name, node in tree.body) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module, "imports are absolute"
            inside = [f"{node.module}.{name.name}" for name in node.names]
            modules = [name for name in inside if f"{name.replace('.', '/')}.py" in sources()]
            yield from ((name, node in tree.body) for name in modules or [node.module])


def module_name(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def floor(name: str) -> int:
    return FLOORS.get(name.split(".")[1], UNNAMED_FLOOR) if "." in name else -1


def public_functions() -> dict[str, Any]:
    """The layers and losses, name below `minilm.layers` -> function."""
    found = {}
    for path, tree in trees("minilm/layers") + trees("minilm/losses.py"):
        module = importlib.import_module(module_name(path))
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                place = module_name(path).removeprefix("minilm.").removeprefix("layers.")
                found[f"{place}.{node.name}"] = getattr(module, node.name)
    return found


def is_initial(name: str) -> bool:
    return name.split(".")[-1].startswith("init_")


def is_mixer(name: str) -> bool:
    """A record of functions, or a rule: neither compiled itself nor with a reference. (Nor have initial values one.)"""
    return name.endswith(("_mixer", "_rule"))


LAYERS = {name: function for name, function in public_functions().items() if not is_initial(name)}
REFERENCED = sorted(name for name in LAYERS if not is_mixer(name) and name not in COLLECTIVE)
each_layer = pytest.mark.parametrize("name", sorted(LAYERS))
each_referenced = pytest.mark.parametrize("name", REFERENCED)


def reference_of(name: str):
    place, function = name.rsplit(".", 1)
    return importlib.import_module(f"minilm.reference.{place}"), function


def test_imports_go_one_way():
    upwards = [
        f"{path} imports {name}"
        for path, tree in trees("minilm")
        for name, _ in imported(tree)
        if name.startswith("minilm.") and floor(name) > floor(module_name(path))
    ]
    assert not upwards, upwards


def test_dataclasses_become_pytrees_of_a_structure_of_their_own():
    names = [(path, node.attr) for path, tree in trees("minilm") for node in ast.walk(tree) if hasattr(node, "attr")]
    assert not [path for path, name in names if name == "register_dataclass"]


def test_losses_training_and_generation_take_functions_and_import_no_model():
    for path in ("minilm/losses.py", "minilm/training.py", "minilm/generation.py"):
        assert not [name for name, _ in imported(ast.parse(sources()[path])) if name.startswith("minilm.models")], path


def test_no_two_modules_import_each_other():
    modules = {module_name(path): tree for path, tree in trees("minilm")}
    edges = {name: {to for to, top in imported(tree) if top and to in modules} for name, tree in modules.items()}
    while leaves := [name for name, to in edges.items() if not (to - {name}) & edges.keys()]:
        for name in leaves:
            del edges[name]
    assert not edges, f"a circle of imports among {sorted(edges)}"


def test_references_data_and_metrics_are_numpy_alone():
    for path, tree in trees("minilm/reference") + trees("minilm/data") + trees("minilm/metrics"):
        names = {name for name, _ in imported(tree)}
        assert not [name for name in names if re.match(r"(jax|jaxtyping|flax|optax|torch)\b", name)], path
        if "reference" in path:
            assert all(name.startswith("minilm.reference") for name in names if name.startswith("minilm")), path


def test_only_parallel_knows_devices():
    knowing = {path for path, tree in trees("minilm") for name, _ in imported(tree) if name.startswith("jax.sharding")}
    attributes = {path for path, tree in trees("minilm") for n in ast.walk(tree) if ast.unparse(n) == "jax.sharding"}
    assert knowing | attributes == {"minilm/parallel.py"}


def test_importing_minilm_its_references_its_data_and_its_metrics_loads_no_jax():
    numpy_alone = ("minilm/reference", "minilm/data", "minilm/metrics")
    names = [module_name(path) for path in sources() if path.startswith(numpy_alone)]
    program = "import importlib, sys; [importlib.import_module(n) for n in sys.argv[1:]]; print('jax' in sys.modules)"
    command = [sys.executable, "-c", program, "minilm", *names]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip() == "False"


@each_layer
def test_the_docstring_has_an_equation_the_shapes_and_the_path_of_the_reference(name):
    doc = inspect.getdoc(LAYERS[name]) or ""
    assert "Args:" in doc, "an Args section"
    assert "Returns" in doc, "what it returns"
    if not is_mixer(name):
        assert doc.count("$$") >= 2, "an equation between $$ and $$"
    if name in REFERENCED:
        assert f"Reference: `minilm.reference.{name}`" in doc


@each_referenced
def test_the_reference_takes_the_same_arguments_with_the_same_defaults(name):
    module, function = reference_of(name)

    def arguments(f):
        parameters = inspect.signature(f).parameters.values()
        return [(p.name, p.kind, p.default) for p in parameters if p.name not in ("activation", "layer", "dtype")]

    assert list(inspect.signature(LAYERS[name]).parameters) == list(
        inspect.signature(getattr(module, function)).parameters
    )
    assert arguments(LAYERS[name]) == arguments(getattr(module, function))


@each_referenced
def test_the_reference_has_a_gradient_with_its_derivation(name):
    module, function = reference_of(name)
    backward = getattr(module, f"{function}_backward", None)
    if name in NOT_DIFFERENTIABLE:
        assert backward is None
    else:
        assert backward is not None, f"{function}_backward is missing in {module.__name__}"
        assert backward.__doc__
        assert next(iter(inspect.signature(backward).parameters)) == "saved"


def test_every_layer_has_its_record():
    recorded = {record.name.split("[")[0] for record in all_records()}
    assert recorded == set(REFERENCED) - NO_RECORD


@pytest.mark.parametrize("file", ["masks", "sparse_masks"])
def test_every_mask_rule_has_its_reference(file):
    layers, reference = (importlib.import_module(f"minilm.{side}.attention.{file}") for side in ("layers", "reference"))
    rules = [name for name, value in vars(layers).items() if inspect.isclass(value) and issubclass(value, layers.Rule)]
    assert rules
    for name in rules:
        fields = getattr(getattr(layers, name), "__dataclass_fields__", {})
        assert fields.keys() == getattr(getattr(reference, name), "__dataclass_fields__", {}).keys(), name
        assert getattr(layers, name).__doc__


def test_public_layers_are_compiled_except_those_named_here():
    interpreted = {name for name in REFERENCED if not isinstance(LAYERS[name], jax.stages.Wrapped)}
    assert interpreted == INTERPRETED


def test_every_public_function_and_class_of_minilm_is_documented():
    silent = []
    for path, tree in trees("minilm"):
        kinds = (ast.FunctionDef, ast.ClassDef)
        silent += [
            f"{path}: {node.name}"
            for node in tree.body
            if isinstance(node, kinds) and not node.name.startswith("_") and not ast.get_docstring(node)
        ]
        silent += [] if ast.get_docstring(tree) else [path]
    assert not silent, silent


def test_the_readme_says_of_every_variant_what_the_table_says():
    readme = (ROOT / "README.md").read_text()
    for name, row in VARIANTS.items():
        options = ", ".join(f"`{option}={default}`" for option, default in row.options.items())
        assert f"| `{name}` | {row.about} | {options} | {row.paper} |" in readme


def test_every_letter_of_an_axis_stands_in_the_table_and_the_readme_has_that_table():
    told = dict(re.findall(r"\| `(\w)` +\| ([^|]+?) +(?=\|)", minilm.shapes.__doc__ or ""))
    used = {
        letter
        for path, text in sources().items()
        if path.startswith("minilm/layers") or path == "minilm/losses.py"
        for axes in re.findall(r'(?:Float|Int|Bool)\[Array, "([^"]*)"\]', text)
        for letter in re.findall(r"\b[a-z]\b", axes)
    }
    assert used == told.keys()
    readme = dict(re.findall(r"\| `(\w)` \| ([^|]+?) (?=\|)", (ROOT / "README.md").read_text()))
    assert told.items() <= readme.items()


def test_every_module_can_be_imported():
    for module in pkgutil.walk_packages(minilm.__path__, "minilm."):
        importlib.import_module(module.name)


def test_the_top_of_the_repository_holds_what_is_named_and_nothing_else():
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    top = {path.split("/")[0] for path in listed if (ROOT / path).exists()}
    assert {name for name in top if not name.startswith(".")} <= TOP_LEVEL


def test_no_module_is_a_drawer_for_what_has_no_place():
    drawers = [path for path in sources() if re.search(r"\b(utils?|helpers?|common|misc)(\.py|/)", path)]
    assert not drawers


def test_files_fit_on_a_few_screens():
    lengths = {path: text.count("\n") for path, text in sources().items()}
    limits = {path: LONGEST_TEST if path.startswith("tests/") else LONGEST_FILE for path in lengths}
    assert not (long := {path: n for path, n in lengths.items() if n > limits[path]}), f"two ideas in a file: {long}"


@pytest.mark.parametrize("folder", ["minilm/layers/attention", "minilm/layers/linear_attention"])
def test_no_variant_of_attention_takes_more_than_twenty_lines(folder):
    long = []
    for path, tree in trees(folder):
        lines = sources()[path].splitlines()
        for function in (node for node in tree.body if isinstance(node, ast.FunctionDef)):
            body = function.body[1:] if ast.get_docstring(function) else function.body
            code = [line for line in lines[body[0].lineno - 1 : function.end_lineno] if line.strip()] if body else []
            if sum(not line.lstrip().startswith("#") for line in code) > LONGEST_VARIANT:
                long.append(f"{path}: {function.name}")
    assert long == LONG_KERNELS.get(folder, [])


@pytest.mark.parametrize("folder", ["minilm", "benchmarks", "examples", "tests"])
def test_no_pickle_no_deferred_annotations_and_nothing_left_undone(folder):
    for path, tree in trees(folder):
        names = {name.split(".")[0] for name, _ in imported(tree)}
        names |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        assert not names & {"pickle", "cPickle", "dill", "joblib", "NotImplementedError", "__future__"}, path
        allowed = [node for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "allow_pickle"]
        assert all(ast.unparse(node.value) == "False" for node in allowed), path
        unfinished = re.findall(r"\b(?:TO" r"DO|FIX" r"ME|XX" r"X)\b", sources()[path])
        assert not unfinished, path


def test_tolerances_stand_in_their_table():
    """No rtol, atol, rel or abs given as a number, and no number below 1e-4 to which an assertion compares."""
    loose = []
    for path, tree in trees("tests"):
        if path == "tests/tolerances.py":
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.keyword) and node.arg in ("rtol", "atol", "rel", "abs", "rel_tol", "abs_tol"):
                loose += [f"{path}:{node.value.lineno}"] * any(map(is_small, ast.walk(node.value)))
            if isinstance(node, ast.Assert):
                compared = [right for n in ast.walk(node) if isinstance(n, ast.Compare) for right in n.comparators]
                loose += [f"{path}:{node.lineno}"] * any(is_small(n) for right in compared for n in ast.walk(right))
    assert not loose, loose


def is_small(node) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, float) and 0 < abs(node.value) < 1e-4
