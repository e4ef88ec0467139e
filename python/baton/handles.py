"""Instance, Device, Buffer, Program, Timeline, Queue: each owns a handle and is a context manager. What a call costs and fails with is
said in hal/baton.h at the function of the same name.

Closing: close(), the end of a `with`, or the garbage collector; closing an instance closes everything that it made. A queue with nobody
left to name it stays open with its instance, so that `dev.queue().submit(...)` is no cancelled op. A timeline must be held as long as ops
in flight name it; buffers and programs are kept by their ops.
Threads: any thread may use them; the GIL is released inside of every call. Waits are interrupted by Ctrl-C.
"""

from __future__ import annotations

import ctypes as c
import dataclasses
import time
import weakref
from typing import Any, Mapping, Sequence

from . import _abi
from .errors import Code, Error, call, from_c, text
from .ops import Op
from .owned import SLICE_NS, Owned, Owner, deadline


class _Handle(Owned):
    """What an instance made."""

    _last = 0  # order of closing in Instance.close

    def __init__(self, instance: Instance, handle: c.c_void_p):
        super().__init__(instance, handle)
        instance._children.add(self)


@dataclasses.dataclass(frozen=True)
class Heap:
    """One kind of memory of a device."""

    name: str
    bytes_total: int
    bytes_used: int
    mappable: bool
    exportable: bool


@dataclasses.dataclass(frozen=True)
class Finding:
    """What validation found; see baton_finding."""

    code: str
    blame: str
    misuse: bool  # False: a warning
    what: str
    next: str


@dataclasses.dataclass(frozen=True)
class DeviceInfo:
    """What a device is; see baton_device_info."""

    uri: str
    name: str
    model: str
    driver: str
    firmware: str
    location: str
    timing: str
    epoch: int
    lanes: int
    heaps: tuple[Heap, ...]
    emulated: bool
    collectives: bool
    progress: bool
    modelled: bool
    numa_node: int | None


def _info(i: _abi.baton_device_info) -> DeviceInfo:
    heaps = tuple(Heap(text(h.name), h.bytes_total, h.bytes_used, bool(h.mappable), bool(h.exportable)) for h in i.heaps[:i.heap_count])
    texts = {n: text(getattr(i, n)) for n in ("uri", "name", "model", "driver", "firmware", "location", "timing")}
    flags = {n: bool(getattr(i, n)) for n in ("emulated", "collectives", "progress", "modelled")}
    return DeviceInfo(**texts, **flags, epoch=i.epoch, lanes=i.lanes, heaps=heaps, numa_node=None if i.numa_node == 2**32 - 1 else i.numa_node)


class Buffer(_Handle):
    """Memory on one device. `numpy.asarray(buf)` and `buf.view()` share it where the heap is mappable."""

    _close, _last = "baton_free", 2

    def __init__(self, instance: Instance, handle: c.c_void_p):
        super().__init__(instance, handle)
        self._memory: weakref.ref | None = None  # the ctypes array that every view is of

    @property
    def bytes(self) -> int:
        """Its length."""
        return _abi.lib.baton_buffer_bytes(self._handle())

    def view(self) -> memoryview:
        """Its bytes, shared. Read after a wait, write before a submit. Error UNSUPPORTED if the heap is not mappable."""
        memory = self._memory() if self._memory else None
        if memory is None:
            address = c.c_void_p()
            call("baton_map", self._handle(), address)
            memory = (c.c_uint8 * self.bytes).from_address(address.value)
            memory._buffer = self  # whoever has a view has the buffer
            self._memory = weakref.ref(memory)
        return memoryview(memory).cast("B")

    def __array__(self, dtype=None, copy=None):
        import numpy

        array = numpy.frombuffer(self.view(), numpy.uint8)
        if dtype is not None and array.dtype != dtype:
            if copy is False:
                raise ValueError("a Buffer is bytes: numpy.asarray(buf).view(dtype)")
            return array.astype(dtype)
        return array.copy() if copy else array

    def array(self, dtype: Any, shape: Sequence[int] | None = None, offset: int = 0):
        """A NumPy array that shares the bytes from `offset` on: all of them, or as many as `shape` needs."""
        import numpy

        count = -1 if shape is None else int(numpy.prod(shape))
        array = numpy.frombuffer(self.view(), dtype, count, offset)
        return array if shape is None else array.reshape(shape)

    def close(self) -> None:
        """Frees it. BufferError while views or arrays of it are alive."""
        if self._h is not None and self._memory and self._memory() is not None:
            raise BufferError("views or arrays of this Buffer are alive: delete them first")
        super().close()

    def export(self) -> tuple[int, int]:
        """(descriptor, offset) of its memory object; the caller closes the descriptor."""
        fd, offset = c.c_int(-1), c.c_uint64()
        call("baton_export", self._handle(), fd, offset)
        return fd.value, offset.value

    def fence(self, offset: int, bytes: int) -> None:
        """What others have written there through a descriptor, complete, is visible to the device from here on."""
        call("baton_fence", self._handle(), offset, bytes)


class Program(_Handle):
    """A program on one lane of a device; see Device.load."""

    _close, _last = "baton_unload", 1


class Timeline(_Handle):
    """A watermark that only rises, plus a failure that stays: the only ordering there is."""

    _close, _last = "baton_timeline_destroy", 4

    def signal(self, value: int, modelled_ns: int = 0) -> None:
        """Raises the watermark; a lower value is ignored."""
        _abi.lib.baton_timeline_signal(self._handle(), value, modelled_ns)

    def poison(self, what: str = "", code: int = Code.CANCELLED, next: str = "") -> None:
        """Fails it, and everything that waits for it, for good; the first cause stays."""
        e = _abi.baton_error(code=code, what=what.encode()[:319], next=next.encode()[:191])
        _abi.lib.baton_timeline_poison(self._handle(), e if what else None)

    @property
    def value(self) -> int:
        """The watermark; raises the poison. Does not poll."""
        value = c.c_uint64()
        call("baton_timeline_query", self._handle(), value)
        return value.value

    def modelled_ns(self, value: int) -> int:
        """When `value` was reached by the timing model; 0 if it was not, or is not modelled."""
        return _abi.lib.baton_timeline_modelled(self._handle(), value)

    def wait(self, value: int, timeout: float | None = None) -> None:
        """Waits until the watermark is at least `value`. Error DEADLINE after `timeout` seconds, the poison's code if poisoned."""
        end = deadline(timeout)
        while True:
            slice_end = min(end, time.monotonic_ns() + SLICE_NS)
            e = _abi.baton_error()
            if not _abi.lib.baton_timeline_wait(self._handle(), value, slice_end, e):
                return
            if e.code != Code.DEADLINE or slice_end == end:
                raise from_c(e)
            self.value  # a poison whose code is DEADLINE


class Queue(_Handle):
    """Where ops are submitted: a lane of a device, or a link between two."""

    _close, _last = "baton_queue_close", 0

    def __init__(self, instance: Instance, handle: c.c_void_p):
        super().__init__(instance, handle)
        instance._queues.add(self)

    def close(self) -> None:
        """Fails what is not complete with CANCELLED, waits for what the device still runs, closes."""
        super().close()
        self._owner._queues.discard(self)

    def submit(self, *ops: Op) -> None:
        """Takes all of the ops or, on error, none."""
        array = (_abi.baton_op * len(ops))(*(op.c for op in ops))
        tickets = []
        for slot, op in zip(array, ops):
            if op.function is not None:
                ticket = self._owner._next_ticket()
                self._owner._functions[ticket] = op.function
                slot.u.host = (_run_address, ticket)
                tickets.append(ticket)
        _instances.update({t: self._owner for t in tickets})
        try:
            call("baton_submit", self._handle(), array, len(ops))
        except Error:
            for t in tickets:
                _take(t)
            raise


class Device(_Handle):
    """An open device. What it made may outlive it."""

    _close, _last = "baton_close", 3

    def info(self) -> DeviceInfo:
        """What it is and how full it is now."""
        i = _abi.baton_device_info()
        call("baton_info", self._handle(), i)
        return _info(i)

    def telemetry(self) -> dict[str, int]:
        """Its counters and what its instruments show, by name."""
        t = _abi.baton_telemetry()
        call("baton_telemetry_read", self._handle(), t)
        return {name: getattr(t, name) for name, _ in t._fields_[2:-1]}

    def reset(self) -> None:
        """Fails everything in flight, makes everything made before stale, and raises the epoch."""
        call("baton_reset", self._handle())

    def alloc(self, bytes: int, heap: int = 0) -> Buffer:
        """Memory of the device; undefined bytes."""
        h = c.c_void_p()
        call("baton_alloc", self._handle(), heap, bytes, h)
        return Buffer(self._owner, h)

    def import_fd(self, fd: int, offset: int, bytes: int) -> Buffer:
        """Memory that somebody exported, without a copy; the descriptor stays the caller's."""
        h = c.c_void_p()
        call("baton_import", self._handle(), fd, offset, bytes, h)
        return Buffer(self._owner, h)

    def load(self, program: bytes, constants: Mapping[str, Any] = {}, lane: int = 0, rank: int = 0, ranks: int = 1) -> Program:
        """Loads a serialized program (baton.program makes one) and its constants: NumPy arrays in the dtype and shape that the program
        declares (bfloat16 as its bits, uint16), or bytes. They are copied."""
        array = (_abi.baton_constant * len(constants))()
        keep = []
        for slot, (name, data) in zip(array, constants.items()):
            if not isinstance(data, (bytes, bytearray, memoryview)):
                import numpy

                data = numpy.ascontiguousarray(data).view(numpy.uint8).reshape(-1).data
            view = memoryview(data).cast("B")
            if view.readonly:
                view = memoryview(bytearray(view))
            at = (c.c_uint8 * len(view)).from_buffer(view)
            keep += [at, name.encode()]
            slot.name, slot.data, slot.bytes = keep[-1], c.addressof(at), len(view)
        h = c.c_void_p()
        call("baton_load", self._handle(), lane, program, len(program), array, len(array), rank, ranks, h)
        return Program(self._owner, h)

    def queue(self, lane: int = 0) -> Queue:
        """A queue on one lane."""
        h = c.c_void_p()
        call("baton_queue_open", self._handle(), lane, h)
        return Queue(self._owner, h)


class Instance(Owner):
    """The registry of devices, and what polls. `drivers`, `emulators`, `layers`: instead of the environment's."""

    def __init__(self, drivers: str | None = None, emulators: str | None = None, layers: str | None = None):
        self._children: weakref.WeakSet[_Handle] = weakref.WeakSet()
        self._queues: set[Queue] = set()
        self._functions: dict[int, Any] = {}  # of HOST ops not yet called
        self._on_finding = None  # kept: the library calls it
        options = _abi.baton_instance_options(driver_path=drivers.encode() if drivers else None,
                                              emulator_path=emulators.encode() if emulators else None,
                                              layers=None if layers is None else layers.encode())
        h = c.c_void_p()
        call("baton_instance_create", options, h)
        self._h = h.value

    _tickets = 0

    @staticmethod
    def _next_ticket() -> int:
        Instance._tickets += 1
        return Instance._tickets

    def close(self) -> None:
        """Closes what it made, then itself, and ends the emulators that it started. BufferError while views of a buffer are alive."""
        if self._h is None:
            return
        for b in list(self._children):
            if isinstance(b, Buffer) and b._h is not None and b._memory and b._memory() is not None:
                raise BufferError("views or arrays of a Buffer are alive: delete them first")
        for child in sorted(self._children, key=lambda x: x._last):
            child.close()
        h, self._h = self._h, None
        _abi.lib.baton_instance_destroy(h)
        for t in list(self._functions):
            _take(t)

    def open(self, uri: str) -> Device:
        """host://, neuron://0, cs3://10.0.0.5:9000; emu+neuron://0, emu+cs3://0?threads=2 start their emulator."""
        h = c.c_void_p()
        call("baton_open", self._handle(), uri.encode(), h)
        return Device(self, h)

    def enumerate(self) -> list[DeviceInfo]:
        """Every device that an installed driver finds."""
        found: list[DeviceInfo] = []

        def each(_, i):
            found.append(_info(i.contents))
            return 0

        call("baton_enumerate", self._handle(), _abi.enumerate_fn(each), None)
        return found

    def timeline(self, name: str = "") -> Timeline:
        """A timeline at 0; the name is for errors."""
        h = c.c_void_p()
        call("baton_timeline_create", self._handle(), name.encode(), h)
        return Timeline(self, h)

    def link(self, source: Device, target: Device) -> Queue:
        """A queue for copies from one device to the other."""
        h = c.c_void_p()
        call("baton_link_open", source._handle(), target._handle(), h)
        return Queue(self, h)

    def plan_copy(self, source: Device, target: Device) -> str:
        """The path that such a copy takes, one line each hop."""
        out = c.create_string_buffer(1024)
        call("baton_plan_copy", source._handle(), target._handle(), out, len(out))
        return text(out.value)

    def on_finding(self, function) -> None:
        """Calls function(Finding) for each misuse that the layer "validate" finds, until the instance is closed; leaks come last. It may submit,
        signal, poison and query. UNSUPPORTED without the layer."""

        def each(_, f):
            f = f.contents
            function(Finding(text(f.code), text(f.blame), f.severity == _abi.MISUSE, text(f.what), text(f.next)))

        callback = _abi.finding_fn(each)
        call("baton_set_finding_callback", self._handle(), callback, None)
        self._on_finding = callback

    def poll(self, budget: int = 64) -> int:
        """Makes progress, never sleeps; returns how many events it handled. For event loops, with fileno()."""
        return _abi.lib.baton_poll(self._handle(), budget)

    def fileno(self) -> int:
        """A descriptor that is readable when poll may make progress: for select, asyncio. The instance's, not to be closed."""
        return _abi.lib.baton_instance_fd(self._handle())


_instances: dict[int, Instance] = {}  # by ticket: a HOST op in flight keeps its instance


def _take(ticket: int):
    return _instances.pop(ticket)._functions.pop(ticket, None) if ticket in _instances else None


@_abi.host_fn
def _run(ticket):
    function = _take(ticket)
    if function is not None:
        function()


_run_address = c.cast(_run, c.c_void_p).value


def version() -> str:
    """The library's version."""
    return text(_abi.lib.baton_version())
