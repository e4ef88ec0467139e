"""Portable programs, built in Python: values and ops by name. The library judges and serializes them (hal/program/json.h).

    p = Builder("project", max_tokens=8, args=["tokens"])
    x = p.value("x", "f32", "input", ["tokens", 64])
    y = p.value("y", "f32", "output", ["tokens", 32])
    p.op("matmul", [x, p.value("w", "bf16", "constant", [32, 64])], [y], act="bf16")
    program = device.load(p.serialize(), {"w": weights})
"""

from __future__ import annotations

import ctypes as c
import json
from typing import Any, Sequence

from . import _abi
from .errors import from_c

_library: c.CDLL | None = None


def serialize(program: dict[str, Any]) -> bytes:
    """What Device.load takes, from the JSON form. Error INVALID_ARGUMENT names the field, the value or the op that is wrong."""
    global _library
    if _library is None:
        _library = _abi.load("libbaton-program.so.0")
        _library.baton_program_from_json.restype = c.c_int32
        _library.baton_program_from_json.argtypes = [c.c_char_p, c.c_void_p, c.c_uint64, c.POINTER(c.c_uint64), c.POINTER(_abi.baton_error)]
    text = json.dumps(program).encode()
    size, out = c.c_uint64(len(text) + 4096), b""
    while len(out) < size.value:
        out = c.create_string_buffer(size.value)
        e = _abi.baton_error()
        if _library.baton_program_from_json(text, out, len(out), size, e):
            raise from_c(e)
    return out.raw[:size.value]


class Builder:
    """A program under construction. Fields (ranks, loop, max_tokens, max_steps, max_context, args) have the defaults of program.hpp."""

    def __init__(self, name: str, **fields: Any):
        self.json: dict[str, Any] = {"name": name, **fields, "values": [], "ops": []}

    def value(self, name: str, dtype: str, storage: str, shape: Sequence[int | str], optional: bool = False) -> str:
        """dtype: f32, bf16, f16, i32. storage: input, output, inout, cache, constant, scratch. Axes: numbers, "tokens", "steps"."""
        self.json["values"].append({"name": name, "dtype": dtype, "storage": storage, "shape": list(shape), "optional": optional})
        return name

    def op(self, op: str, inputs: Sequence[str], outputs: Sequence[str], **fields: Any) -> None:
        """One op over values by name; see OpCode in program.hpp for its operands and fields."""
        self.json["ops"].append({"op": op, "in": list(inputs), "out": list(outputs), **fields})

    def serialize(self) -> bytes:
        """Verified, as Device.load takes it."""
        return serialize(self.json)
