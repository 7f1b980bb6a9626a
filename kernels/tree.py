"""An expression as a JSON tree, so that a checkpoint holds its equations without any code.

A node is a list: its name from a fixed table, then its arguments. Nothing is evaluated as text, and what `encode` does
not write is refused, numbers that would grow without bound included.
"""

from typing import Any

import sympy
from sympy import Expr

FUNCTIONS = {
    "add": sympy.Add,
    "mul": sympy.Mul,
    "pow": sympy.Pow,
    "exp": sympy.exp,
    "log": sympy.log,
    "sin": sympy.sin,
    "cos": sympy.cos,
    "tan": sympy.tan,
    "tanh": sympy.tanh,
    "abs": sympy.Abs,
    "sign": sympy.sign,
}
NAMES = {function: name for name, function in FUNCTIONS.items()}
LARGEST = 2**63
LARGEST_POWER = 64
LARGEST_OFFSET = 64
DEEPEST = 100
MOST_NODES = 20_000

Leaves = dict[str, tuple[type, tuple[str, ...]]]  # node name -> class, attributes that are its arguments


def encode(expr: Expr, leaves: Leaves) -> list:
    """`expr` as nested lists. Raises ValueError for a function that is not in the table."""
    for name, (kind, attributes) in leaves.items():
        if isinstance(expr, kind):
            return [name, *(getattr(expr, a) for a in attributes)]
    if expr is sympy.pi:
        return ["pi"]
    if expr.is_Rational:
        return ["number", int(expr.p), int(expr.q)]
    if expr.is_Float:
        return ["float", float(expr)]
    if expr.is_Pow:
        check_power(*expr.args)
    if expr.func not in NAMES:
        raise ValueError(f"{expr.func.__name__} has no place in a stencil; the functions are {', '.join(FUNCTIONS)}")
    return [NAMES[expr.func], *(encode(a, leaves) for a in expr.args)]


def decode(tree: Any, leaves: Leaves) -> Expr:
    """The expression of `tree`. Raises ValueError for a node that is not in the table, malformed, or too large."""
    budget = [MOST_NODES]
    return _decode(tree, leaves, budget, 0)


def _decode(tree: Any, leaves: Leaves, budget: list[int], depth: int) -> Expr:
    budget[0] -= 1
    if budget[0] < 0 or depth > DEEPEST:
        raise ValueError(f"a stencil of more than {MOST_NODES} nodes or {DEEPEST} levels")
    if not isinstance(tree, list | tuple) or not tree or not isinstance(tree[0], str):
        raise ValueError(f"not a node of a stencil: {str(tree)[:80]}")
    name, *args = tree
    if name in leaves:
        return _leaf(name, args, *leaves[name])
    if name in ("pi", "number", "float"):
        return _number(name, args)
    if name not in FUNCTIONS:
        raise ValueError(f"unknown node {name!r} in a stencil")
    if not args or (name not in ("add", "mul") and len(args) != (2 if name == "pow" else 1)):
        raise ValueError(f"node {name!r} with {len(args)} arguments")
    terms = [_decode(a, leaves, budget, depth + 1) for a in args]
    if name == "pow":
        check_power(*terms)
    return FUNCTIONS[name](*terms)


def check_power(base: Expr, power: Expr) -> None:
    """Raises ValueError for a power that is not a small ratio of integers, or that would make a huge number."""
    small = power.is_Rational and max(abs(power.p), power.q) <= LARGEST_POWER
    if not small or (base.is_number and not (base.is_Rational and max(abs(base.p), base.q) < LARGEST)):
        raise ValueError(f"{str(base)[:40]} to the power of {str(power)[:40]} in a stencil; powers are small rationals")


def _leaf(name: str, args: list, kind: type, attributes: tuple[str, ...]) -> Expr:
    offsets = [a for a in args if isinstance(a, int)]
    if len(args) != len(attributes) or any(abs(o) > LARGEST_OFFSET for o in offsets):
        raise ValueError(f"node {name!r} with arguments {str(args)[:80]}")
    if [type(a) for a in args] != [str if a in ("name", "axis") else int for a in attributes]:
        raise ValueError(f"node {name!r} with arguments {str(args)[:80]}")
    return kind(*args)


def _number(name: str, args: list) -> Expr:
    if name == "pi" and not args:
        return sympy.pi
    if name == "float" and len(args) == 1 and type(args[0]) is float and abs(args[0]) < float("inf"):
        return sympy.Float(args[0])
    if name == "number" and len(args) == 2 and all(type(a) is int and abs(a) < LARGEST for a in args) and args[1] > 0:
        return sympy.Rational(*args)
    raise ValueError(f"node {name!r} with arguments {str(args)[:80]}")
