"""Expressions as the text of a Triton kernel: names of shifted reads, and arithmetic on them."""

from sympy import Expr, Function, Rational, S, Symbol
from sympy.core.function import AppliedUndef

from .adjoint import guarded

FUNCTIONS = {
    "exp": "exponential",
    "log": "tl.log",
    "sin": "tl.sin",
    "cos": "tl.cos",
    "tanh": "hyperbolic_tangent",
    "Abs": "tl.abs",
    "sign": "sign",
}


def suffix(*offsets: int) -> str:
    """-1, 2 -> "m1_2"."""
    return "_".join(f"m{-d}" if d < 0 else str(d) for d in offsets)


def moved(index: str, offset: int) -> str:
    """j, -1 -> "j - 1"."""
    return index if not offset else f"{index} {'-' if offset < 0 else '+'} {abs(offset)}"


def write(expr: Expr) -> str:
    """`expr` of symbols and numbers as Triton code."""
    if expr.is_Symbol:
        return expr.name
    if expr.is_Add:
        parts = [(a.as_coeff_Mul()[0] < 0, a) for a in sorted(expr.args, key=_negative)]
        first, *rest = parts
        text = write(first[1])
        return text + "".join(f" - {write(-a)}" if minus else f" + {write(a)}" for minus, a in rest)
    if expr.is_Mul:
        return _product(expr)
    if expr.is_Pow:
        return _power(expr.base, expr.exp)
    if expr.is_number:
        return repr(float(expr))
    if expr.func is guarded:
        return f"tl.where({write(expr.args[0])} != 0, {write(expr.args[1])}, 0)"
    if expr.func.__name__ == "tan":
        return f"tl.sin({write(expr.args[0])}) / tl.cos({write(expr.args[0])})"
    if isinstance(expr, Function | AppliedUndef) and expr.func.__name__ in FUNCTIONS:
        return f"{FUNCTIONS[expr.func.__name__]}({', '.join(write(a) for a in expr.args)})"
    raise ValueError(f"no Triton code for {expr.func.__name__}")


def _negative(term: Expr) -> bool:
    return bool(term.as_coeff_Mul()[0] < 0)


def _product(expr: Expr) -> str:
    number, rest = expr.as_coeff_Mul()
    if number == -1:
        return f"-{_factor(rest)}"
    above, below = [], []
    for arg in rest.args if rest.is_Mul else (rest,):
        inverse = arg.is_Pow and arg.exp.is_number and arg.exp < 0
        (below if inverse else above).append(1 / arg if inverse else arg)
    texts = ([repr(float(number))] if number != 1 else []) + [_factor(a) for a in above]
    text = " * ".join(texts) or "1.0"
    if below:
        text += " / " + (_factor(below[0]) if len(below) == 1 else f"({' * '.join(_factor(b) for b in below)})")
    return text


def _factor(expr: Expr) -> str:
    text = write(expr)
    plain = expr.is_Symbol or isinstance(expr, Function) or (expr.is_number and not text.startswith("-"))
    return text if plain else f"({text})"


def _power(base: Expr, power: Expr) -> str:
    name = _factor(base)
    if power < 0:
        return f"1.0 / {_factor(base**-power)}" if power != -1 else f"1.0 / {name}"
    if power == S.Half:
        return f"tl.sqrt({write(base)})"
    if power.is_Integer and power <= 16:
        return " * ".join([name] * int(power))
    if (2 * power).is_Integer and power <= 8:
        return " * ".join([name] * int(power) + [f"tl.sqrt({write(base)})"])
    return f"power({write(base)}, {float(Rational(power))!r})"


def symbol(name: str, *offsets: int) -> Symbol:
    """The variable that holds `name` at an offset; two underscores keep it apart from every other."""
    return Symbol(f"{name}__{suffix(*offsets)}", real=True)


def indent(lines: list[str], depth: int) -> list[str]:
    return ["    " * depth + line for line in lines]
