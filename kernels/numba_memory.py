"""Loads and stores that say what they do not overlap: what a kernel reads, and each stream that it writes, apart.
And a hint that something will be read.

Without this LLVM compares every row that a loop reads with every row that it writes before it makes vector code, and
beyond some number of comparisons it gives up: a gather of four fields ran four times slower than one of three.
"""

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

MOST_STREAMS = 32
READ = "read"


def name_of(stream: int) -> str:
    return f"stream {min(stream, MOST_STREAMS)}"


def _mark(builder: Any, instruction: Any, own: list[str], others: list[str]) -> None:
    """Scopes of LLVM's alias metadata: this access is in `own` and overlaps none in `others`."""
    module = builder.module
    domain = module.add_metadata([ir.MetaDataString(module, "sciguide")])

    def node(names: list[str]) -> Any:
        scopes = [module.add_metadata([ir.MetaDataString(module, name), domain]) for name in names]
        return module.add_metadata(scopes)

    instruction.set_metadata("alias.scope", node(own))
    instruction.set_metadata("noalias", node(others))


@intrinsic
def prefetch(typing_context, array, index):
    """Ask for the cache line of array[index], which need not exist."""

    def code(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        place = builder.bitcast(builder.gep(data, [arguments[1]]), pointer)
        builder.call(function, [place, number(0), number(3), number(1)])
        return context.get_dummy_value()

    return types.void(array, index), code


@intrinsic
def take(typing_context, array, index):
    """array[index] of what the kernel only reads in this loop."""

    def code(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        found = builder.load(builder.gep(data, [arguments[1]]))
        _mark(builder, found, [READ], [name_of(n) for n in range(MOST_STREAMS)])
        return found

    return array.dtype(array, index), code


def writer(stream: int) -> Any:
    """The intrinsic `give(array, index, value)`, array[index] = value, of one stream."""

    @intrinsic
    def give(typing_context, array, index, value):
        def code(context, builder, signature, arguments):
            data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
            done = builder.store(arguments[2], builder.gep(data, [arguments[1]]))
            others = [name_of(n) for n in range(MOST_STREAMS) if n != stream]
            _mark(builder, done, [name_of(stream)], [READ, *others])
            return context.get_dummy_value()

        return types.void(array, index, array.dtype), code

    return give
