"""A stand-in for cerebras.sdk.runtime.sdkruntimepybind: the documented signatures and semantics, over an emulated wafer.

What it keeps to (facts/cs3 1.1, 1.2): load once, run once, stop once; get_id gives None for a name that is not exported; one ordered command stream;
copies of 32-bit host arrays, where MEMCPY_16BIT takes the low half of each; row-major and column-major; nonblock gives a Task at once; a port's
wavelets come in pairs. `bindir` is what standin_compiler.py made. A function is Baton's portable program: its constants are symbols, read back from the
wafer when it is first launched."""

from __future__ import annotations

import enum
import json
import pathlib

import numpy as np

import link
from wafer_client import Client, Failed

EMULATED = True


class MemcpyDataType(enum.Enum):
    MEMCPY_16BIT = 0
    MEMCPY_32BIT = 1


class MemcpyOrder(enum.Enum):
    ROW_MAJOR = 0
    COL_MAJOR = 1


class Task:
    """Chunks in flight, and what to do with what they bring."""

    def __init__(self, ids, take=None):
        self.ids, self.take, self.over = list(ids), take, False


class SdkRuntime:
    def __init__(self, bindir, *, cmaddr="", suppress_simfab_trace=False, simfab_numthreads=5, msg_level="WARNING"):
        self._bindir = pathlib.Path(bindir)
        self._out = json.loads((self._bindir / "standin.json").read_text())
        host, _, port = cmaddr.rpartition(":")
        self._client = Client(host, int(port))
        self._ids, self._mems, self._program, self._life = {}, {}, None, "made"

    # ---- lifecycle ----

    def load(self):
        if self._life != "made":
            raise RuntimeError("Cannot call load() multiple times")
        w, h = self._out["size"]
        self._client.call("load", w=w, h=h)
        for name, (x, y, sw, sh, n) in self._out["symbols"].items():
            _, payload = self._client.call("symbol", name.encode(), link.SymbolReply.size(), bytes=len(name), x=x, y=y, w=sw, h=sh, elements_per_pe=n)
            r = link.SymbolReply.unpack(payload)
            self._ids[name], self._mems[name] = r.id, (r.mem, r.base, sw * sh * n * 4)
        for name, (symbol, x, y, outward) in self._out.get("ports", {}).items():
            c, _ = self._client.call("port", name.encode(), bytes=len(name), symbol=self._ids[symbol], x=x, y=y, arg0=outward)
            self._ids[name] = c.handle
        self._life = "loaded"

    def run(self):
        if self._life != "loaded":
            raise RuntimeError("Cannot call run() multiple times, or call run() if load() has not been called")
        self._client.call("run")
        self._life = "running"

    def stop(self):
        if self._life == "running":
            self._client.call("stop")
        self._client.close()
        self._life = "stopped"

    def get_id(self, name):
        return self._ids.get(name)

    def get_port_id(self, name):
        return self._ids[name]

    # ---- copies ----

    def _commands(self):
        if self._life != "running":
            raise RuntimeError("SdkRuntime must be running to accept memcpy commands.")

    @staticmethod
    def _words(array, count):
        if not isinstance(array, np.ndarray) or array.dtype.itemsize != 4 or array.ndim != 1 or not array.flags.c_contiguous:
            raise TypeError("the host tensor is a flat array of 32-bit elements")
        if len(array) != count:
            raise ValueError(f"the host tensor has {len(array)} elements, the region of interest {count}")
        return array.view(np.uint32)

    @staticmethod
    def _place(symbol, px, py, w, h, n, data_type, order, flags=0, **strides):
        bits = 16 if data_type is MemcpyDataType.MEMCPY_16BIT else 32
        return {"symbol": symbol, "x": px, "y": py, "w": w, "h": h, "elements_per_pe": n, "element_bits": bits, "order": order.value, "channels": 16, "flags": flags, **strides}

    def _finish(self, task, nonblock):
        if not nonblock:
            self.task_wait(task)
        return task

    def _h2d(self, dest, src, px, py, w, h, n, count, flags, streaming, data_type, order, nonblock, **strides):
        self._commands()
        if streaming:
            raise NotImplementedError("streaming mode is not of this stand-in")
        words = self._words(src, count)
        tensor = (words.astype(np.uint16) if data_type is MemcpyDataType.MEMCPY_16BIT else words).tobytes()
        return self._finish(Task(self._client.transfer("memcpy_h2d", tensor, **self._place(dest, px, py, w, h, n, data_type, order, flags, **strides))), nonblock)

    def memcpy_h2d(self, dest, src, px, py, w, h, elem_per_pe, *, streaming, data_type, order, nonblock):
        return self._h2d(dest, src, px, py, w, h, elem_per_pe, w * h * elem_per_pe, 0, streaming, data_type, order, nonblock)

    def memcpy_h2d_rowbcast(self, dest, src, px, py, w, h, elem_per_pe, *, streaming, data_type, order, nonblock):
        return self._h2d(dest, src, px, py, w, h, elem_per_pe, h * elem_per_pe, link.ALONG_ROWS, streaming, data_type, order, nonblock)

    def memcpy_h2d_colbcast(self, dest, src, px, py, w, h, elem_per_pe, *, streaming, data_type, order, nonblock):
        return self._h2d(dest, src, px, py, w, h, elem_per_pe, w * elem_per_pe, link.ALONG_COLUMNS, streaming, data_type, order, nonblock)

    def memcpy_h2d_stride(self, dest, src, px, py, w, h, elem_per_pe, row_stride, col_stride, *, streaming, data_type, order, nonblock):
        if row_stride < 1 or col_stride < 1:
            raise ValueError("row_stride or col_stride must be positive")
        count = (1 + (w - 1) // row_stride) * (1 + (h - 1) // col_stride) * elem_per_pe
        return self._h2d(dest, src, px, py, w, h, elem_per_pe, count, 0, streaming, data_type, order, nonblock, row_stride=row_stride, col_stride=col_stride)

    def memcpy_d2h(self, dest, src, px, py, w, h, elem_per_pe, *, streaming, data_type, order, nonblock):
        self._commands()
        words = self._words(dest, w * h * elem_per_pe)
        width = np.uint16 if data_type is MemcpyDataType.MEMCPY_16BIT else np.uint32

        def take(data):
            words[:] = np.frombuffer(data, width)

        count = len(words) * np.dtype(width).itemsize
        return self._finish(Task(self._client.transfer("memcpy_d2h", count, **self._place(src, px, py, w, h, elem_per_pe, data_type, order)), take), nonblock)

    def send(self, port, data, *, nonblock):
        self._commands()
        return self._finish(Task(self._client.transfer("send", self._words(data, len(data)).tobytes(), symbol=port)), nonblock)

    def receive(self, port, dest, n_wavelets, *, nonblock):
        self._commands()
        words = self._words(dest, n_wavelets)

        def take(data):
            words[:] = np.frombuffer(data, np.uint32)

        return self._finish(Task(self._client.transfer("receive", n_wavelets * 4, symbol=port), take), nonblock)

    # ---- kernels ----

    def _load_program(self):
        """The function's constants, from their symbols."""
        program = (self._bindir / "program.btnp").read_bytes()
        c, _ = self._client.call("load_begin", bytes=len(program), arg0=len(self._out["constants"]))
        handle = c.handle
        for at in range(0, len(program), link.MAX_PAYLOAD):
            self._client.call("load_program", program[at:at + link.MAX_PAYLOAD], program=handle, address=at)
        for name, count in self._out["constants"].items():
            x, y, w, h, n = self._out["symbols"][name]
            words = np.zeros(w * h * n, np.uint32)
            self.memcpy_d2h(words, self._ids[name], x, y, w, h, n, streaming=False, data_type=MemcpyDataType.MEMCPY_32BIT, order=MemcpyOrder.COL_MAJOR, nonblock=False)
            data = words.tobytes()[:count]
            self._client.call("load_constant", name.encode(), program=handle, bytes=count)
            for at in range(0, count, link.MAX_PAYLOAD):
                self._client.call("load_chunk", data[at:at + link.MAX_PAYLOAD], program=handle, address=at)
        self._client.call("load_finish", program=handle)
        self._program = handle

    def _reorder(self, name, op):
        """A kernel reads its symbols as they lie on the PEs; the portable program reads them in a row. Column-major to linear, or back, on the wafer."""
        x, y, w, h, n = self._out["symbols"][name]
        mem, base, count = self._mems[name]
        if op == "linear":
            words = np.zeros(w * h * n, np.uint32)
            self.memcpy_d2h(words, self._ids[name], x, y, w, h, n, streaming=False, data_type=MemcpyDataType.MEMCPY_32BIT, order=MemcpyOrder.COL_MAJOR, nonblock=False)
            for t in self._client.transfer("memcpy_h2d", words.tobytes(), mem=mem, address=base):
                self._client.wait(t)
        else:
            data = b"".join(self._client.wait(t)[1] for t in self._client.transfer("memcpy_d2h", count, mem=mem, address=base))
            words = np.frombuffer(data, np.uint32)
            self.memcpy_h2d(self._ids[name], words, x, y, w, h, n, streaming=False, data_type=MemcpyDataType.MEMCPY_32BIT, order=MemcpyOrder.COL_MAJOR, nonblock=False)

    def launch(self, symbol, *args, nonblock):
        self._commands()
        if symbol != self._out["function"]:
            raise ValueError(f"no function '{symbol}' is exported")
        if self._program is None:
            self._load_program()
        halves = [int(a) for a in args]
        values = [halves[i] | halves[i + 1] << 32 for i in range(0, len(halves), 2)]
        bindings = self._out["bindings"]
        for name in bindings:
            self._reorder(name, "linear")
        table = link.LaunchHead(bindings=len(bindings), args=len(values)).pack()
        for name, count in bindings.items():
            mem, base, _ = self._mems[name]
            table += link.LaunchBinding(name=name.encode(), mem=mem, address=base, bytes=count).pack()
        table += b"".join(v.to_bytes(8, "little") for v in values)
        self._client.call("launch", table, program=self._program)
        for name in bindings:
            self._reorder(name, "column-major")
        return Task([])

    # ---- tasks ----

    def task_wait(self, task):
        if task.over:
            return
        try:
            data = b"".join(self._client.wait(i)[1] for i in task.ids)
        except Failed as e:
            raise RuntimeError(str(e)) from e
        if task.take:
            task.take(data)
        task.over = True

    def is_task_done(self, task):
        return task.over or all(self._client.is_done(i) for i in task.ids)
