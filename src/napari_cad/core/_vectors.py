"""Vectors of float32 numbers in functions that numba compiles.

LLVM, the compiler behind numba, makes vectors of plain loops where it can prove that arrays do not
overlap, and cannot be told which numbers stay in registers. A value of this type does, and is what
the processor has: one register with AVX (8 numbers) and with AVX-512 (16), two with NEON or SSE.

    v = 2 * load(array, i) + every(np.float32(1))
    store(array, i, larger(v, every(np.float32(0))))

Arrays are flat, contiguous and of float32. As everywhere in such functions, nobody checks an index.
"""

from __future__ import annotations

import operator
from inspect import Parameter, Signature
from typing import TYPE_CHECKING, Any

from llvmlite import ir
from numba import types
from numba.core.registry import cpu_target
from numba.extending import intrinsic, models, overload, register_model

if TYPE_CHECKING:
    from collections.abc import Callable

#: What numba compiles for: the platform, the processor and its features. Functions that it keeps on
#: disk it keeps by the same three, so what was compiled for more lanes is never found for fewer.
_, _, _FEATURES = cpu_target.target_context.codegen().magic_tuple()

#: Numbers in a vector.
LANES = 16 if "+avx512f" in _FEATURES.split(",") else 8

_VECTOR = ir.VectorType(ir.FloatType(), LANES)
_UNDEFINED = ir.Constant(_VECTOR, ir.Undefined)


class _Vector(types.Type):
    def __init__(self) -> None:
        super().__init__(name=f"float32 x {LANES}")


_NUMBERS = _Vector()


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: _Vector) -> None:
        super().__init__(manager, vector, _VECTOR)  # type: ignore[no-untyped-call]


def _function(result: Any, *takes: Any) -> Callable[[Callable[..., Any]], Any]:
    """Make a numba function of one that writes its instructions.

    `takes` has the type of every argument, None for an array. The writer gets LLVM's builder and
    the arguments; a position in an array comes as the address there.
    """

    def decorate(write: Callable[..., Any]) -> Any:
        def declare(_context: Any, *given: Any) -> Any:
            return result(
                *(own or wanted for own, wanted in zip(takes, given, strict=True))
            ), generate

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            if takes[0] is None:
                array = context.make_array(signature.args[0])(context, builder, arguments[0])
                arguments = (builder.gep(array.data, [arguments[1]]), *arguments[2:])
            made = write(builder, *arguments)
            return context.get_dummy_value() if made is None else made

        # numba counts the arguments
        names = ["context", *(f"argument{i}" for i in range(len(takes)))]
        declare.__signature__ = Signature(  # type: ignore[attr-defined]
            [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in names]
        )
        declare.__name__ = write.__name__
        return intrinsic(declare)

    return decorate


def _shuffled(builder: Any, vector: Any, lanes: list[int]) -> Any:
    order = ir.Constant(ir.VectorType(ir.IntType(32), LANES), lanes)
    return builder.shuffle_vector(vector, _UNDEFINED, order)


@_function(_NUMBERS, types.float32)
def every(builder: Any, number: Any) -> Any:
    """One number in every lane."""
    first = builder.insert_element(_UNDEFINED, number, ir.Constant(ir.IntType(32), 0))
    return _shuffled(builder, first, [0] * LANES)


@_function(_NUMBERS, None, types.intp)
def load(builder: Any, address: Any) -> Any:
    """As many numbers of an array as there are lanes, from a position on."""
    loaded = builder.load(builder.bitcast(address, _VECTOR.as_pointer()))
    loaded.align = 4
    return loaded


@_function(_NUMBERS, None, types.intp)
def load_one(builder: Any, address: Any) -> Any:
    """One number of an array in every lane."""
    first = builder.insert_element(
        _UNDEFINED, builder.load(address), ir.Constant(ir.IntType(32), 0)
    )
    return _shuffled(builder, first, [0] * LANES)


@_function(types.void, None, types.intp, _NUMBERS)
def store(builder: Any, address: Any, vector: Any) -> None:
    """Write the numbers to an array, from a position on."""
    stored = builder.store(vector, builder.bitcast(address, _VECTOR.as_pointer()))
    stored.align = 4


@_function(_NUMBERS, _NUMBERS, _NUMBERS)
def larger(builder: Any, x: Any, y: Any) -> Any:
    """Maximum, lane by lane; of a first that is no number that."""
    return builder.select(builder.fcmp_ordered("<", x, y), y, x)


@_function(types.float32, _NUMBERS)
def lane_sum(builder: Any, vector: Any) -> Any:
    """Sum of all lanes."""
    distance = LANES
    while distance > 1:
        distance //= 2
        lanes = [(lane + distance) % LANES for lane in range(LANES)]
        vector = builder.fadd(vector, _shuffled(builder, vector, lanes))
    return builder.extract_element(vector, ir.Constant(ir.IntType(32), 0))


def _define(operation: Any, instruction: str) -> None:
    """Give vectors an operation, among themselves and with a number before them."""

    @_function(_NUMBERS, _NUMBERS, _NUMBERS)
    def apply(builder: Any, x: Any, y: Any) -> Any:
        # a product and the sum it goes into may become one instruction
        return getattr(builder, instruction)(x, y, flags=("contract",))

    @overload(operation, strict=False)
    def choose(x: Any, y: Any) -> Any:
        if x == _NUMBERS and y == _NUMBERS:
            return lambda x, y: apply(x, y)
        if isinstance(x, types.Number) and y == _NUMBERS:
            return lambda x, y: apply(every(x), y)
        return None


_define(operator.add, "fadd")
_define(operator.sub, "fsub")
_define(operator.mul, "fmul")
