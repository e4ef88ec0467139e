"""A client's buffers. SdkRuntime knows symbols alone, so a buffer lives here, and a launch makes it resident in the symbol that it binds.

Copies are lazy both ways: to the wafer if the host's side is newer or the symbol held another buffer; back when somebody looks at it. So a KV-cache
goes up once, and stays. The session's worker alone; alloc, from its reader, and free under the session's lock."""

from __future__ import annotations

import numpy as np

import link

GRANULE = 4096


class Buffer:
    def __init__(self, address: int, count: int):
        self.address, self.data = address, np.zeros(count, np.uint8)


class Resident:
    """Bytes [begin, end) of the linear space, in a symbol. At most one side is newer."""

    def __init__(self, mem: int, begin: int, count: int, layout):
        self.mem, self.begin, self.end, self.layout = mem, begin, begin + count, layout
        self.host_newer, self.wafer_newer = True, False

    def same(self, mem: int, begin: int, count: int) -> bool:
        return (self.mem, self.begin, self.end) == (mem, begin, begin + count)


class Memory:
    """pull(layout, bytes) reads a symbol's first bytes; push(layout, data) writes them."""

    def __init__(self, capacity: int, pull, push):
        self.capacity, self.pull, self.push = capacity, pull, push
        self.buffers, self.residents = {}, {}
        self.used = self.next_address = 0
        self.next_handle = 1

    def alloc(self, count: int) -> tuple:
        if count == 0:
            raise link.Refusal(link.INVALID_ARGUMENT, "an allocation of 0 bytes", "ask for at least 1")
        rounded = -(-count // GRANULE) * GRANULE
        if rounded > self.capacity - self.used:
            raise link.Refusal(link.CAPACITY, f"a buffer of {count} bytes: {self.used} of {self.capacity} are taken", "free buffers, or shorten the context")
        handle, address = self.next_handle, self.next_address
        self.next_handle, self.next_address, self.used = handle + 1, address + rounded, self.used + rounded
        self.buffers[handle] = Buffer(address, count)
        return handle, address

    def free(self, handle: int) -> None:
        b = self.buffers.pop(handle, None)
        if b is None:
            raise link.Refusal(link.INVALID_ARGUMENT, f"there is no buffer {handle}", "free each buffer once")
        self.used -= -(-len(b.data) // GRANULE) * GRANULE
        self.residents = {n: r for n, r in self.residents.items() if r.mem != handle}

    def range(self, handle: int, address: int, count: int) -> np.ndarray:
        b = self.buffers.get(handle)
        if b is None:
            raise link.Refusal(link.INVALID_ARGUMENT, f"there is no buffer {handle}", "it was freed, or never allocated by this client")
        at = address - b.address
        if at < 0 or at > len(b.data) or count > len(b.data) - at:
            raise link.Refusal(link.INVALID_ARGUMENT, f"{count} bytes at sram address {address} lie outside of buffer {handle} ({len(b.data)} bytes at {b.address})",
                               "keep offset + bytes within the buffer")
        return b.data[at:at + count]

    def _overlapping(self, begin: int, end: int):
        return [r for r in self.residents.values() if r.begin < end and begin < r.end]

    def _bring_home(self, r: Resident) -> None:
        if r.wafer_newer:
            self.range(r.mem, r.begin, r.end - r.begin)[:] = self.pull(r.layout, r.end - r.begin)
            r.wafer_newer = False

    def read(self, handle: int, address: int, count: int) -> np.ndarray:
        """The bytes as they are now, wherever the newest copy is."""
        view = self.range(handle, address, count)
        for r in self._overlapping(address, address + count):
            self._bring_home(r)
        return view

    def write(self, handle: int, address: int, count: int) -> np.ndarray:
        """To be written by the caller; what stays of a resident range is brought home first."""
        view = self.range(handle, address, count)
        for r in self._overlapping(address, address + count):
            self._bring_home(r)
            r.host_newer = True
        return view

    def bind(self, handle: int, address: int, count: int, layout) -> None:
        """Resident in the symbol, and as new as the host's side."""
        r = self.residents.get(layout.name)
        if r is not None and not r.same(handle, address, count):
            self._bring_home(r)
            r = None
        for other in self._overlapping(address, address + count):
            if other is not r:
                self._bring_home(other)
        if r is None:
            self.range(handle, address, count)
            r = self.residents[layout.name] = Resident(handle, address, count, layout)
        if r.host_newer:
            self.push(layout, self.range(handle, address, count))
            r.host_newer = False

    def launched(self, layouts) -> None:
        """A launch of the symbols bound last is over: what it may write is newest on the wafer."""
        for layout in layouts:
            r = self.residents[layout.name]
            if not layout.written:
                continue
            for other in self._overlapping(r.begin, r.end):
                if other is not r:
                    other.host_newer = True  # of another symbol: stale there; and home is stale too, until r is brought home
            r.wafer_newer = True

    def forget(self) -> None:
        """The program is gone, and its symbols with it: what is newest there comes home first."""
        for r in list(self.residents.values()):
            self._bring_home(r)
        self.residents.clear()
