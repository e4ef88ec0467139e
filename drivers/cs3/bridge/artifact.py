"""Compiled artifacts: what a portable program is on the wafer, looked up by the SHA-256 of its bytes.

FOLDER/<sha256>/baton.json says what the compiler made of it:

    {"schema": "baton.cs3.artifact/1", "program": "<sha256>", "bindir": "out", "launch": "main",
     "symbols": {"tokens": {"symbol": "tokens", "rectangle": [0, 0, 4, 1], "elements_per_pe": 2, "written": true}, ...}}

Each constant that a load passes and each value that a launch binds has its symbol: its bytes, padded with zeros to whole 32-bit words, lie on the
rectangle in column-major order. `written`: a launch may change it. `launch` takes the launch's arguments, each as two u32, low half first, and
must unblock the command stream when it ends."""

from __future__ import annotations

import hashlib
import json
import os

import link


class Layout:
    """A value's symbol and its place."""

    def __init__(self, name: str, entry: dict):
        self.name, self.symbol, self.written = name, str(entry["symbol"]), bool(entry.get("written", False))
        self.x, self.y, self.w, self.h = (int(v) for v in entry["rectangle"])
        self.elements = int(entry["elements_per_pe"])
        if min(self.x, self.y) < 0 or min(self.w, self.h, self.elements) < 1:
            raise ValueError(f"symbol {name}: a rectangle or length that cannot be")
        self.id = None

    @property
    def words(self) -> int:
        return self.w * self.h * self.elements


class Artifact:
    def __init__(self, folder: str, manifest: dict):
        if manifest["schema"] != "baton.cs3.artifact/1":
            raise ValueError(f"schema {manifest['schema']}")
        self.program, self.launch = str(manifest["program"]), str(manifest["launch"])
        self.bindir = os.path.join(folder, str(manifest["bindir"]))
        self.layouts = {n: Layout(n, e) for n, e in manifest["symbols"].items()}

    def layout(self, name: str, count: int) -> Layout:
        found = self.layouts.get(name)
        if found is None:
            raise link.Refusal(link.NOT_FOUND, f"the artifact has no symbol for '{name}'", "compile the program again: each constant and binding needs one")
        if count > found.words * 4:
            raise link.Refusal(link.MISMATCH, f"'{name}' of {count} bytes: its symbol holds {found.words * 4}", "compile the program again, for these sizes")
        return found


def find(folder: str, program: bytes) -> Artifact:
    """Unknown: the program is left at its place in the folder, for the compiler."""
    digest = hashlib.sha256(program).hexdigest()
    place = os.path.join(folder, digest)
    try:
        with open(os.path.join(place, "baton.json"), encoding="utf-8") as f:
            artifact = Artifact(place, json.load(f))
    except FileNotFoundError:
        saved = os.path.join(place, "program.btnp")
        os.makedirs(place, exist_ok=True)
        with open(saved, "wb") as f:
            f.write(program)
        raise link.Refusal(link.NOT_FOUND, f"no compiled artifact {digest[:16]}", f"compile {saved} (it was left there for that), then load again") from None
    except (KeyError, TypeError, ValueError) as e:
        raise link.Refusal(link.CORRUPT, f"artifact {digest[:16]}: its baton.json is wrong ({e!r})", "compile the program again") from e
    if artifact.program != digest:
        raise link.Refusal(link.MISMATCH, f"artifact {digest[:16]} is of program {artifact.program[:16]}", "put it where its hash says, or compile again")
    return artifact
