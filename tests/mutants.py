"""Small bugs, made from a function's syntax tree: each mutant differs from the function by one slip of the pen."""

import ast
import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

OPERATORS = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
COMPARISONS = {  # the border, and the other side
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
CONFUSED = {"max": "min", "maximum": "minimum", "argmax": "argmin", "sum": "mean", "any": "all", "sin": "cos"}
CONFUSED |= {"zeros": "ones", "zeros_like": "ones_like", "floor": "ceil"}
CONFUSED |= {right: left for left, right in CONFUSED.items()}
DROPPED_CALLS = {"sqrt", "rsqrt", "exp", "log", "log1p", "expm1", "tanh", "sigmoid", "softmax", "erf", "square", "abs"}
DROPPED_CALLS |= {"stop_gradient", "cumsum", "flip", "transpose", "swapaxes", "floor", "clip", "sort"}
DROPPED_CALLS |= {"_exp", "_logistic", "_softmax"}
SYMMETRIC = {"max", "min", "maximum", "minimum", "dot", "vdot", "promote_types", "logaddexp", "isinstance"}
DROPPED_METHODS = {"astype", "cumsum", "transpose"}
DROPPED_KEYWORDS = {"axis", "keepdims", "where", "initial", "mode", "reverse", "mask", "bias", "preferred_element_type"}


@dataclass(frozen=True)
class Mutant:
    """One slip: where it is, which node of the function's tree, and which variant of that node."""

    path: str
    function: str
    slip: str
    node: int
    variant: int

    @property
    def name(self) -> str:
        """What the list of survivors calls it: it names no line, so that other edits leave it alone."""
        return f"{self.path}::{self.function}: {self.slip}"


def mutants_of(path: str, root: Path) -> list[Mutant]:
    """Every mutant of every function and method of a module."""
    found, times = [], Counter()
    for name, function in functions_of(ast.parse((root / path).read_text())).items():
        for node_index, node in enumerate(ast.walk(function)):
            for variant_index, variant in enumerate(variants(node)):
                slip = f"{_first_line(node)} → {_first_line(variant)}"
                times[name, slip] += 1
                again = f" (#{times[name, slip]})" if times[name, slip] > 1 else ""
                found.append(Mutant(path, name, slip + again, node_index, variant_index))
    return found


def functions_of(tree: ast.Module) -> dict[str, ast.FunctionDef]:
    """The functions and methods of a module by name, bare of what no number depends on."""
    found = {}
    for node in tree.body:
        for inner in node.body if isinstance(node, ast.ClassDef) else [node]:
            if isinstance(inner, ast.FunctionDef) and not (inner.name.startswith("__") and inner.name != "__call__"):
                found[f"{node.name}.{inner.name}" if inner is not node else inner.name] = _bare(inner)
    return found


def mutated(mutant: Mutant, root: Path) -> ast.FunctionDef:
    """The function with its slip."""
    function = functions_of(ast.parse((root / mutant.path).read_text()))[mutant.function]
    node = list(ast.walk(function))[mutant.node]
    variant = list(variants(node))[mutant.variant]
    for parent in ast.walk(function):
        for field, value in ast.iter_fields(parent):
            if value is node:
                setattr(parent, field, variant)
            elif isinstance(value, list):
                value[:] = [variant if item is node else item for item in value]
    return ast.fix_missing_locations(function)


def variants(node: ast.AST) -> Iterator[ast.AST]:
    """The slips that can be made at one node."""

    def other(**fields):
        new = copy.copy(node)
        for field, value in fields.items():
            setattr(new, field, value)
        return new

    match node:
        case ast.BinOp(left=left, op=op, right=right):
            if type(op) in OPERATORS:
                yield other(op=OPERATORS[type(op)]())
                yield left
                if not isinstance(op, ast.Pow | ast.FloorDiv | ast.Mod):
                    yield right
        case ast.AugAssign(target=target, op=op, value=value):
            if type(op) in OPERATORS:
                yield other(op=OPERATORS[type(op)]())
                yield ast.Assign([target], value, lineno=node.lineno)
        case ast.UnaryOp(op=ast.USub() | ast.Not() | ast.Invert(), operand=operand):
            yield operand
        case ast.Compare(ops=[op]):
            yield from (other(ops=[flipped()]) for flipped in COMPARISONS[type(op)])
        case ast.BoolOp(op=op):
            yield other(op=ast.Or() if isinstance(op, ast.And) else ast.And())
        case ast.IfExp(body=body, orelse=orelse):
            yield other(body=orelse, orelse=body)
        case ast.If(test=test):
            yield other(test=ast.UnaryOp(ast.Not(), test))
        case ast.Constant(value=bool() as value):
            yield other(value=not value)
        case ast.Constant(value=int() as value):
            yield other(value=value + 1)
            yield other(value=value - 1)
        case ast.Constant(value=float() as value):
            yield other(value=10 * value if value else 1.0)
            yield other(value=value / 10 if value else -1.0)
        case ast.Assign(targets=[ast.Tuple(elts=[first, second, *rest]) as target], value=value):
            if "random.split" not in ast.unparse(value) and not _same(value):  # two keys are as good either way
                yield other(targets=[ast.Tuple([second, first, *rest], target.ctx)])
        case ast.Return(value=ast.Tuple(elts=[first, second, *rest]) as value) if not _same(value):
            yield other(value=ast.Tuple([second, first, *rest], ast.Load()))
        case ast.Attribute(value=value, attr="T"):
            yield value
        case ast.Call(func=func, args=args, keywords=keywords):
            called = func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "")
            plain = not any(isinstance(argument, ast.Starred) for argument in args)
            if called in DROPPED_CALLS and args and plain:
                yield args[0]
            if called in DROPPED_METHODS and isinstance(func, ast.Attribute):
                yield func.value
            buffer = ast.unparse(func) == "np.zeros"  # which is filled, or added to: then other slips show it
            if called in CONFUSED and isinstance(func, ast.Attribute) and not buffer:
                yield other(func=ast.Attribute(func.value, CONFUSED[called], ast.Load()))
            if plain and len(args) == 3 and called in ("where", "cond"):
                yield other(args=[args[0], args[2], args[1]])
            elif plain and len(args) > 1 and called not in SYMMETRIC and not _same(ast.Tuple(args)):
                yield other(args=[args[1], args[0], *args[2:]])
            for keyword in keywords:
                if keyword.arg in DROPPED_KEYWORDS:
                    yield other(keywords=[k for k in keywords if k is not keyword])


def _same(value):
    """Whether the first two of several values are written alike: `np.zeros(n), np.zeros(n)`."""
    match value:
        case ast.Tuple(elts=[first, second, *_]):
            return ast.dump(first) == ast.dump(second)
        case ast.GeneratorExp(generators=[ast.comprehension(target=ast.Name(id="_"))]):
            return True
    return False


def _first_line(node):
    return ast.unparse(node).split("\n")[0]


def _bare(function):
    """Without decorators, annotations, docstring, the words of errors, and `strict=`."""
    function.decorator_list, function.returns = [], None
    if ast.get_docstring(function):
        function.body = function.body[1:] or [ast.Pass()]
    for node in ast.walk(function):
        if isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            node.exc = node.exc.func
        elif isinstance(node, ast.Call):  # what only guards
            node.keywords = [keyword for keyword in node.keywords if keyword.arg != "strict"]
    return function
