"""Ops: what Queue.submit takes. Ordered by their points alone.

    q.submit(baton.fill(buf, 0).signal(done, 1), baton.copy(buf, other).wait(done, 1).signal(done, 2))
"""

from __future__ import annotations

import ctypes as c
import struct
from typing import TYPE_CHECKING, Callable, Mapping, Sequence, Union

from . import _abi

if TYPE_CHECKING:
    from .handles import Buffer, Program, Timeline

    Bound = Union[Buffer, "tuple[Buffer, int]", "tuple[Buffer, int, int]"]


class Op:
    """One op, with at most two points to wait for and two to signal. May be submitted several times, but one with a HOST function."""

    def __init__(self, opcode: int):
        self.c = _abi.baton_op(opcode=opcode)
        self.function: Callable[[], object] | None = None
        self._keep: list[object] = []  # what the struct points to and what it names, until it is submitted

    def _point(self, points, timeline: Timeline, value: int) -> Op:
        for p in points:
            if not p.timeline:
                p.timeline, p.value = timeline._handle(), value
                self._keep.append(timeline)
                return self
        raise ValueError("an op has two points to wait for and two to signal: join more with nop()")

    def wait(self, timeline: Timeline, value: int) -> Op:
        """Issued once `timeline` is at least `value`."""
        return self._point(self.c.wait, timeline, value)

    def signal(self, timeline: Timeline, value: int) -> Op:
        """Raises `timeline` to `value` when complete, poisons it when failed."""
        return self._point(self.c.signal, timeline, value)

    def tagged(self, tag: int) -> Op:
        """A number of the caller's, shown in errors and traces."""
        self.c.tag = tag
        return self

    def progress(self, timeline: Timeline, base: int = 0) -> Op:
        """LAUNCH: raises `timeline` to base + k at the program's k-th mark."""
        self.c.u.launch.progress, self.c.u.launch.progress_base = timeline._handle(), base
        self._keep.append(timeline)
        return self


def nop() -> Op:
    """Completes when its waits are met: joins timelines."""
    return Op(_abi.OP_NOP)


def copy(src: Buffer, dst: Buffer, bytes: int | None = None, src_offset: int = 0, dst_offset: int = 0) -> Op:
    """Moves bytes, by default all of `src` from its offset on, on a queue of either's device or on a link between the two."""
    op = Op(_abi.OP_COPY)
    op.c.u.copy = (src._handle(), dst._handle(), src_offset, dst_offset, src.bytes - src_offset if bytes is None else bytes)
    op._keep += [src, dst]
    return op


def fill(dst: Buffer, pattern: int = 0, pattern_bytes: int = 1, offset: int = 0, bytes: int | None = None) -> Op:
    """Repeats the low 1, 2 or 4 bytes of `pattern`, by default to the end of the buffer."""
    op = Op(_abi.OP_FILL)
    op.c.u.fill = (dst._handle(), offset, dst.bytes - offset if bytes is None else bytes, pattern, pattern_bytes)
    op._keep.append(dst)
    return op


def host(function: Callable[[], object]) -> Op:
    """Calls `function` on the thread that polls or waits; it must not block. An exception in it goes to sys.unraisablehook."""
    op = Op(_abi.OP_HOST)
    op.function = function
    return op


def launch(program: Program, bindings: Mapping[str, Bound], args: Sequence[int | float] = ()) -> Op:
    """Runs a program on a queue of its lane. `bindings`: a buffer, or (buffer, offset[, bytes]), by the name that the program declares;
    `args` in the order that it declares, floats as floats."""
    op = Op(_abi.OP_LAUNCH)
    bound = (_abi.baton_binding * len(bindings))()
    for b, (name, what) in zip(bound, bindings.items()):
        buffer, offset, bytes = (*what, 0, 0)[:3] if isinstance(what, tuple) else (what, 0, 0)
        b.name, b.buffer, b.offset, b.bytes = name.encode(), buffer._handle(), offset, bytes
        op._keep.append(buffer)
    numbers = (c.c_int64 * len(args))(*(struct.unpack("<q", struct.pack("<d", a))[0] if isinstance(a, float) else a for a in args))
    op.c.u.launch = (program._handle(), bound, numbers, None, 0)
    op.c.binding_count, op.c.arg_count = len(bound), len(numbers)
    op._keep += [program, bound, numbers]
    return op
