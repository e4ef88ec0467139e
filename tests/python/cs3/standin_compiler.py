"""What stands for the CSL compiler: a portable program becomes an artifact for the bridge and the stand-in SdkRuntime.

The program is read as its schema says (hal/program/program.fbs); each constant and each bound value gets a symbol wide enough for its bytes."""

from __future__ import annotations

import hashlib
import json
import pathlib
import struct

DTYPE_BYTES = {1: 4, 2: 2, 3: 2, 4: 4}
CONSTANT, SCRATCH, WRITTEN = 5, 6, (2, 3, 4)
SIDE = 128  # of the square of PEs, at most


class Table:
    """A table of a FlatBuffer: fields by their place in the schema."""

    def __init__(self, data: bytes, at: int):
        self.data, self.at = data, at
        self.vtable = at - struct.unpack_from("<i", data, at)[0]
        self.slots = (struct.unpack_from("<H", data, self.vtable)[0] - 4) // 2

    def _field(self, index: int) -> int:
        offset = struct.unpack_from("<H", self.data, self.vtable + 4 + 2 * index)[0] if index < self.slots else 0
        return self.at + offset if offset else 0

    def number(self, index: int, fmt: str, default: int = 0) -> int:
        at = self._field(index)
        return struct.unpack_from("<" + fmt, self.data, at)[0] if at else default

    def _follow(self, index: int) -> int:
        at = self._field(index)
        return at + struct.unpack_from("<I", self.data, at)[0] if at else 0

    def text(self, index: int) -> str:
        at = self._follow(index)
        return self.data[at + 4:at + 4 + struct.unpack_from("<I", self.data, at)[0]].decode()

    def numbers(self, index: int, fmt: str) -> list:
        at = self._follow(index)
        count = struct.unpack_from("<I", self.data, at)[0] if at else 0
        return list(struct.unpack_from(f"<{count}{fmt}", self.data, at + 4)) if count else []

    def tables(self, index: int) -> list:
        at = self._follow(index)
        count = struct.unpack_from("<I", self.data, at)[0] if at else 0
        places = [at + 4 + 4 * i for i in range(count)]
        return [Table(self.data, p + struct.unpack_from("<I", self.data, p)[0]) for p in places]


def values_of(program: bytes) -> list:
    """(name, storage, bytes) of each value but scratch, with axes at their bounds."""
    root = Table(program, struct.unpack_from("<I", program, 0)[0])
    bounds = {-1: root.number(4, "I"), -2: root.number(5, "I")}
    found = []
    for v in root.tables(8):
        count = DTYPE_BYTES[v.number(1, "B")]
        for axis in v.numbers(4, "q"):
            count *= bounds.get(axis, axis)
        if v.number(2, "B") != SCRATCH:
            found.append((v.text(0), v.number(2, "B"), count))
    return found


def place(count: int) -> tuple:
    """Width, height and words a PE."""
    words = -(-count // 4)
    w = min(SIDE, words)
    h = min(SIDE, -(-words // w))
    return w, h, -(-words // (w * h))


def compile_program(program: bytes, folder: pathlib.Path) -> pathlib.Path:
    digest = hashlib.sha256(program).hexdigest()
    out = folder / digest / "out"
    out.mkdir(parents=True, exist_ok=True)
    symbols, constants, bindings, layouts = {}, {}, {}, {}
    for name, storage, count in values_of(program):
        w, h, n = place(count)
        symbols[name] = [0, 0, w, h, n]
        (constants if storage == CONSTANT else bindings)[name] = count
        layouts[name] = {"symbol": name, "rectangle": [0, 0, w, h], "elements_per_pe": n, "written": storage in WRITTEN}
    (out / "program.btnp").write_bytes(program)
    (out / "standin.json").write_text(json.dumps({"size": [SIDE, SIDE], "function": "main", "symbols": symbols, "constants": constants, "bindings": bindings}))
    manifest = {"schema": "baton.cs3.artifact/1", "program": digest, "bindir": "out", "launch": "main", "symbols": layouts}
    (folder / digest / "baton.json").write_text(json.dumps(manifest))
    return folder / digest
