"""One SdkRuntime and what the link says to it. Every call of the vendor's is here (facts: its documented signatures).

SdkRuntime takes one program: load once, run once, commands in one ordered stream, stop once. So there is one artifact at a time."""

from __future__ import annotations

import os

import numpy as np

import artifact
import link


class Wafer:
    """`sdk` is the vendor's module: SdkRuntime, MemcpyDataType, MemcpyOrder. One thread at a time."""

    def __init__(self, sdk, cmaddr: str, folder: str):
        self.sdk, self.cmaddr, self.folder = sdk, cmaddr, folder
        self.runtime = self.artifact = None
        self.running = False

    def _call(self, what: str, *args, **kwargs):
        try:
            return getattr(self.runtime, what)(*args, **kwargs)
        except Exception as e:  # whatever the vendor's library raises is this command's error, not the bridge's end
            raise link.Refusal(link.FAILED, f"SdkRuntime.{what}: {type(e).__name__}: {e}", "see the system's log; reset, then load again") from e

    def _start(self, bindir: str) -> None:
        if self.runtime is not None:
            raise link.Refusal(link.CAPACITY, "another program is on the wafer: SdkRuntime takes one", "unload it first")
        kwargs = {"cmaddr": self.cmaddr} if self.cmaddr else {}
        try:
            self.runtime = self.sdk.SdkRuntime(bindir, **kwargs)
        except Exception as e:
            raise link.Refusal(link.FAILED, f"SdkRuntime({os.path.basename(bindir)}): {type(e).__name__}: {e}",
                               "see that the artifact is whole, and the system free") from e
        try:
            self._call("load")
            self._call("run")
        except link.Refusal:
            self.stop()
            raise
        self.running = True

    def load_named(self, name: str) -> None:
        if not name or name != os.path.basename(name) or name.startswith("."):
            raise link.Refusal(link.INVALID_ARGUMENT, f"'{name[:60]}' is not an artifact's name", "the name of a folder beside the others")
        bindir = os.path.join(self.folder, name)
        if not os.path.isdir(bindir):
            raise link.Refusal(link.NOT_FOUND, f"there is no artifact '{name[:60]}'", "compile it into the bridge's folder of artifacts")
        self._start(bindir)

    def load_program(self, program: bytes, constants: dict) -> None:
        """Finds the artifact, starts it, and sends the constants."""
        found = artifact.find(self.folder, program)
        layouts = {n: found.layout(n, len(data)) for n, data in constants.items()}
        self._start(found.bindir)
        self.artifact = found
        try:
            for layout in found.layouts.values():
                layout.id = self.symbol(layout.symbol)
            for n, data in constants.items():
                self.push(layouts[n], np.frombuffer(data, np.uint8))
        except link.Refusal:
            self.stop()
            raise

    def symbol(self, name: str) -> int:
        self._need("get_id")
        found = self._call("get_id", name)
        if found is None:
            raise link.Refusal(link.NOT_FOUND, f"no symbol '{name[:64]}'", "the client's bug, or its kernel exports another name")
        return int(found)

    def _need(self, what: str) -> None:
        if self.runtime is None:
            raise link.Refusal(link.INVALID_ARGUMENT, f"{what}: no program is loaded", "the client's bug: load one first")

    # ---- what a layout says ----

    def _options(self, bits: int = 32, order: int = 1) -> dict:
        sdk = self.sdk
        return {"streaming": False, "nonblock": False, "data_type": sdk.MemcpyDataType.MEMCPY_16BIT if bits == 16 else sdk.MemcpyDataType.MEMCPY_32BIT,
                "order": sdk.MemcpyOrder.COL_MAJOR if order else sdk.MemcpyOrder.ROW_MAJOR}

    def push(self, layout, data: np.ndarray) -> None:
        words = np.zeros(layout.words, np.uint32)
        words.view(np.uint8)[:len(data)] = data
        self._call("memcpy_h2d", layout.id, words, layout.x, layout.y, layout.w, layout.h, layout.elements, **self._options())

    def pull(self, layout, count: int) -> np.ndarray:
        words = np.zeros(layout.words, np.uint32)
        self._call("memcpy_d2h", words, layout.id, layout.x, layout.y, layout.w, layout.h, layout.elements, **self._options())
        return words.view(np.uint8)[:count]

    def launch(self, args, fence) -> None:
        """Over when the kernel is: launch may return before that (facts/cs3 1.5), but a blocking copy behind it in the one stream does not."""
        halves = [np.uint32(v >> shift & 0xffffffff) for v in args for shift in (0, 32)]
        self._call("launch", self.artifact.launch, *halves, nonblock=False)
        word = np.zeros(1, np.uint32)
        self._call("memcpy_d2h", word, fence.id, fence.x, fence.y, 1, 1, 1, **self._options())

    # ---- a rectangle of a symbol, and ports, as the link has them ----

    def memcpy(self, s: link.Submission, tensor: bytearray) -> None:
        """The whole transfer. 16-bit elements travel one a 32-bit word, as the vendor's calls take them."""
        self._need(s.name)
        width = np.uint16 if s.element_bits == 16 else np.uint32
        host = np.frombuffer(tensor, width)
        words = host.astype(np.uint32)
        place = (s.x, s.y, s.w, s.h, s.elements_per_pe)
        if s.name == "memcpy_d2h":
            self._call("memcpy_d2h", words, s.symbol, *place, **self._options(s.element_bits, s.order))
            host[:] = words.astype(width)
            return
        if max(s.row_stride, s.col_stride) > 1:
            self._call("memcpy_h2d_stride", s.symbol, words, *place, max(1, s.row_stride), max(1, s.col_stride), **self._options(s.element_bits, s.order))
            return
        call = "memcpy_h2d" + ("_rowbcast" if s.flags & link.ALONG_ROWS else "_colbcast" if s.flags & link.ALONG_COLUMNS else "")
        self._call(call, s.symbol, words, *place, **self._options(s.element_bits, s.order))

    def stream(self, s: link.Submission, tensor: bytearray) -> None:
        self._need(s.name)
        words = np.frombuffer(tensor, np.uint32)
        if s.name == "send":
            self._call("send", s.symbol, words, nonblock=False)
        else:
            self._call("receive", s.symbol, words, len(words), nonblock=False)

    def stop(self) -> None:
        runtime, self.runtime, self.artifact, self.running = self.runtime, None, None, False
        if runtime is not None:
            try:
                runtime.stop()
            except Exception:  # it is given up either way
                pass
