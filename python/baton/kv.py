"""Move a KV-cache between two processes; over libbaton-kv's C ABI (transport/baton_kv.h, which says what a call costs and fails with).

    from baton import kv
    ep = kv.Endpoint(listen="127.0.0.1:7000", key_file="baton.key")          # the decode side
    pool = ep.register(kv.Memfd(layout.nbytes), layout, model="m")
    session = ep.accept(timeout=10)
    grant = pool.grant([4, 0, 2], tokens=150, session=session)
    grant.pull(session, b"request 7")                                        # the prefill side: session.push(event.ticket, [(pool, blocks)], event.tokens)
    async for event in ep.events(): ...                                      # or ep.poll(), ep.wait(timeout); ep.fileno() for select

Threads: one at a time for an endpoint and what belongs to it. The GIL is released inside of every call. A handle is given back by close(), the end of a
`with` or the collector; closing an endpoint closes all that belongs to it.
"""

from __future__ import annotations

import asyncio
import ctypes as c
import dataclasses
import enum
import mmap
import os
import time
import weakref
from typing import Any, AsyncIterator, Sequence

from . import _abi, _kv_abi
from .errors import Code, Error, from_c, text

__all__ = ["Endpoint", "Event", "EventKind", "Grant", "Layout", "Memfd", "Pool", "Push", "Session"]

_DTYPES = ["", "f32", "bf16", "f16", "i32", "f8e4m3", "f8e5m2"]
_NUMPY = {"f32": "float32", "bf16": "uint16", "f16": "float16", "i32": "int32", "f8e4m3": "uint8", "f8e5m2": "uint8"}  # bits, where NumPy has no such number
_ORDERS = ["", "token_major", "head_major", "block_major"]
_PAIRINGS = ["", "apart", "block", "token", "latent"]
_SCALES = ["none", "block_head"]


def _call(name: str, *arguments) -> None:
    e = _abi.baton_error()
    if getattr(_kv_abi.lib, name)(*arguments, e):
        raise from_c(e)


def _deadline(timeout: float | None) -> int:
    return _abi.NO_DEADLINE if timeout is None else time.monotonic_ns() + max(0, int(timeout * 1e9))


def _error(why: Any) -> Any:
    """A baton_error from an Error, a text or None."""
    if why is None:
        return None
    if isinstance(why, Error):
        return _abi.baton_error(code=int(why.code), what=why.what.encode()[:319], next=why.next.encode()[:191])
    return _abi.baton_error(code=int(Code.CANCELLED), what=str(why).encode()[:319])


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one pool keeps a KV-cache; the names are those of KvLayout. `heads` and `held_layers` are half-open ranges, None: all."""

    layers: int
    kv_heads: int
    head_dim: int
    blocks: int
    dtype: str = "bf16"
    order: str = "token_major"
    pairing: str = "apart"
    block_tokens: int = 16
    heads: tuple[int, int] | None = None
    held_layers: tuple[int, int] | None = None
    rope_dim: int = 0
    scales: str = "none"

    def _c(self) -> _kv_abi.baton_kv_layout:
        for value, names in ((self.dtype, _DTYPES), (self.order, _ORDERS), (self.pairing, _PAIRINGS), (self.scales, _SCALES)):
            if value not in names:
                raise ValueError(f"{value!r} is none of {', '.join(n for n in names if n)}")
        h, held = self.heads or (0, self.kv_heads), self.held_layers or (0, 0)
        return _kv_abi.baton_kv_layout(layers=self.layers, kv_heads=self.kv_heads, head_dim=self.head_dim, dtype=_DTYPES.index(self.dtype),
                                       order=_ORDERS.index(self.order), pairing=_PAIRINGS.index(self.pairing), block_tokens=self.block_tokens,
                                       blocks=self.blocks, head_begin=h[0], head_count=h[1] - h[0], layer_begin=held[0], layer_count=held[1] - held[0],
                                       rope_dim=self.rope_dim, scales=_SCALES.index(self.scales))

    @staticmethod
    def parse(line: str) -> Layout:
        """From str(layout), or a JSON object with the same names."""
        l = _kv_abi.baton_kv_layout()
        data = line.encode()
        _call("baton_kv_layout_parse", data, len(data), l)
        whole = l.head_begin == 0 and l.head_count == l.kv_heads
        return Layout(l.layers, l.kv_heads, l.head_dim, l.blocks, _DTYPES[l.dtype], _ORDERS[l.order], _PAIRINGS[l.pairing], l.block_tokens,
                      None if whole else (l.head_begin, l.head_begin + l.head_count),
                      (l.layer_begin, l.layer_begin + l.layer_count) if l.layer_count else None, l.rope_dim, _SCALES[l.scales])

    def __str__(self) -> str:
        out = c.create_string_buffer(512)
        _call("baton_kv_layout_text", self._c(), out, len(out), None)
        return text(out.value)

    def _facts(self) -> tuple[int, int]:
        h, n = c.c_uint64(), c.c_uint64()
        _call("baton_kv_layout_facts", self._c(), h, n)
        return h.value, n.value

    @property
    def hash(self) -> int:
        """Of str(layout): equal on every machine."""
        return self._facts()[0]

    @property
    def nbytes(self) -> int:
        """Of a pool."""
        return self._facts()[1]

    def difference(self, target: Layout) -> str | None:
        """The first difference for which KV cannot be moved from a pool of this layout to one of the other; None: it can."""
        try:
            _call("baton_kv_layout_compare", self._c(), target._c())
        except Error as e:
            if e.code == Code.MISMATCH:
                return e.what
            raise
        return None

    @property
    def numpy_dtype(self) -> str:
        """The NumPy dtype of an element; uint16 and uint8 are the bits of bf16 and FP8."""
        return _NUMPY[self.dtype]

    @property
    def element_strides(self) -> tuple[int, ...]:
        """In elements, of [layer, k or v, block, token, head, d]."""
        h0, h1 = self.heads or (0, self.kv_heads)
        l0, l1 = self.held_layers or (0, self.layers)
        row = (h1 - h0) * self.head_dim
        by_head, latent = self.order == "head_major", self.pairing == "latent"
        half = self.block_tokens * row
        block = half * (1 if latent else 2)
        head, token = (self.block_tokens * self.head_dim, self.head_dim) if by_head else (self.head_dim, row)
        layer, at_block, v = self.blocks * block, block, half
        if self.pairing == "token":
            v, token, head = token, 2 * token, head * (2 if by_head else 1)
        if self.order == "block_major":
            layer, at_block = block, (l1 - l0) * block
        elif self.pairing == "apart":
            at_block, v = half, self.blocks * half
        return layer, 0 if latent else v, at_block, token, head, 1

    def view(self, memory: Any):
        """A NumPy view [layer, k or v, block, token, head, d] of a pool's memory, whatever its order; layers and heads from the first held."""
        import numpy

        l0, l1 = self.held_layers or (0, self.layers)
        h0, h1 = self.heads or (0, self.kv_heads)
        shape = (l1 - l0, 1 if self.pairing == "latent" else 2, self.blocks, self.block_tokens, h1 - h0, self.head_dim)
        flat = numpy.frombuffer(memory, numpy.uint8) if not isinstance(memory, numpy.ndarray) else memory.reshape(-1).view(numpy.uint8)
        flat = flat[:int(numpy.prod(shape)) * numpy.dtype(self.numpy_dtype).itemsize].view(self.numpy_dtype)
        return numpy.lib.stride_tricks.as_strided(flat, shape, [s * flat.itemsize for s in self.element_strides])


class Memfd:
    """Zeroed memory that a peer on this host can be let map: pools of it are filled by one copy (fabric "mapped"). `numpy.asarray(m)` shares it."""

    def __init__(self, bytes: int, name: str = "baton-kv-pool"):
        self.fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, bytes)
        self.map = mmap.mmap(self.fd, bytes)
        self.bytes = bytes

    def __array__(self, dtype=None, copy=None):
        import numpy

        array = numpy.frombuffer(self.map, numpy.uint8)
        return array if dtype is None else array.astype(dtype)

    def __del__(self):
        if getattr(self, "fd", -1) >= 0:
            os.close(self.fd)


class EventKind(enum.IntEnum):
    """baton_kv_event_kind, each said there."""

    LANDED = 1
    COMPLETE = 2
    FAILED = 3
    QUIET = 4
    SENT = 5
    PULL = 6
    NOTE = 7
    PEER_LOST = 8


@dataclasses.dataclass(frozen=True)
class Event:
    """What happened, and whose it is: one of session, grant, push. A kind that this module does not know is an int."""

    kind: EventKind | int
    session: Session | None = None
    grant: Grant | None = None
    push: Push | None = None
    id: int = 0
    layers: int = 0
    tokens: int = 0
    held_tokens: int = 0
    text: str = ""    # PULL: the ticket. NOTE: the type
    data: bytes = b""
    error: Error | None = None

    @property
    def ticket(self) -> str:
        """PULL: what to push into."""
        return self.text


class _Handle:
    _close = ""

    def __init__(self, endpoint: Endpoint, handle: c.c_void_p):
        self._h: int | None = handle.value
        self.endpoint = endpoint
        endpoint._handles[self._h] = self

    def _handle(self) -> int:
        if self._h is None:
            raise ValueError(f"this {type(self).__name__} is closed")
        return self._h

    @property
    def closed(self) -> bool:
        """Whether it was given back."""
        return self._h is None

    def close(self) -> None:
        """Gives it back; a second time does nothing."""
        h, self._h = self._h, None
        if h is not None and self.endpoint._h is not None:
            self.endpoint._handles.pop(h, None)
            getattr(_kv_abi.lib, self._close)(h)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __del__(self):
        if getattr(self, "_h", None) is not None:
            self.close()


def _stats(name: str, handle: int) -> dict[str, Any]:
    s = _kv_abi.baton_kv_stats()
    _call(name, handle, s)
    return {"bytes": s.bytes, "segments": s.segments, "layers": s.layers, "fabric": text(s.fabric)}


def _blocks(blocks: Sequence[int]):
    return (c.c_int32 * len(blocks))(*blocks)


class Session(_Handle):
    """One authenticated peer."""

    _close = "baton_kv_session_close"

    def info(self) -> dict[str, Any]:
        """name, address, same_host; raises why the session was lost."""
        i = _kv_abi.baton_kv_session_info()
        _call("baton_kv_session_read", self._handle(), i)
        return {"name": text(i.name), "address": text(i.address), "same_host": bool(i.same_host)}

    def notify(self, type: str, data: bytes = b"") -> None:
        """A NOTE for the peer."""
        _call("baton_kv_notify", self._handle(), type.encode(), data, len(data))

    def refuse(self, id: int, why: Error | str | None = None) -> None:
        """Answers the PULL of that id with no."""
        _call("baton_kv_refuse", self._handle(), id, _error(why))

    def push(self, ticket: str, sources: Sequence[tuple[Pool, Sequence[int]]], tokens: int, fabric: str = "auto", timeout: float = 5.0,
             checksum: bool = False) -> Push:
        """Agrees with the peer on a push of these blocks into its ticket; nothing is sent yet. Blocks for a round trip."""
        array = (_kv_abi.baton_kv_source * len(sources))()
        keep = []
        for slot, (pool, blocks) in zip(array, sources):
            keep.append(_blocks(blocks))
            slot.pool, slot.blocks, slot.block_count = pool._handle(), keep[-1], len(blocks)
        o = _kv_abi.baton_kv_push_options(source_count=len(array), sources=array, ticket=ticket.encode(), fabric=fabric.encode(), tokens=tokens,
                                          deadline_ns=_deadline(timeout), checksum=int(checksum))
        h = c.c_void_p()
        _call("baton_kv_push_open", self._handle(), o, h)
        push = Push(self.endpoint, h)
        push._pools = [pool for pool, _ in sources]  # whoever has a push has what it reads
        return push


class Grant(_Handle):
    """Blocks that one push may fill. Not to be used before COMPLETE or QUIET."""

    _close = "baton_kv_grant_release"

    @property
    def ticket(self) -> str:
        """Who has it may fill the blocks, once."""
        return text(_kv_abi.lib.baton_kv_grant_ticket(self._handle()))

    def pull(self, session: Session, data: bytes = b"") -> None:
        """Asks the peer to push into it; `data` says what is wanted."""
        _call("baton_kv_pull", self._handle(), session._handle(), data, len(data))

    def cancel(self, why: Error | str | None = None) -> None:
        """Fails it on both sides, unless it is complete."""
        _kv_abi.lib.baton_kv_grant_cancel(self._handle(), _error(why))

    @property
    def quiet(self) -> bool:
        """Nobody can write into the blocks any more."""
        return bool(_kv_abi.lib.baton_kv_grant_quiet(self._handle()))

    def stats(self) -> dict[str, Any]:
        """bytes, segments, layers, fabric."""
        return _stats("baton_kv_grant_stats", self._handle())


class Push(_Handle):
    """One request on its way."""

    _close = "baton_kv_push_release"

    @property
    def layers(self) -> int:
        """How many each source has to push: those that the peer's pool holds."""
        return _kv_abi.lib.baton_kv_push_layers(self._handle())

    def layer(self, layer: int, source: int = 0) -> None:
        """Sends one layer of one source, once; 0 is the first that the peer holds. The bytes move while the endpoint is polled."""
        _call("baton_kv_push_layer", self._handle(), source, layer, None)

    def all(self) -> None:
        """Sends what was not pushed yet."""
        _call("baton_kv_push_all", self._handle())

    def seal(self, data: bytes = b"") -> None:
        """Ends it once all is sent; the peer's COMPLETE has `data`."""
        _call("baton_kv_push_seal", self._handle(), data, len(data))

    def cancel(self, why: Error | str | None = None) -> None:
        """Fails it on both sides, unless it is complete."""
        _kv_abi.lib.baton_kv_push_cancel(self._handle(), _error(why))

    def stats(self) -> dict[str, Any]:
        """bytes, segments, layers, fabric."""
        return _stats("baton_kv_push_stats", self._handle())


class Pool(_Handle):
    """Registered memory with a layout. Keeps what it was made of."""

    _close = "baton_kv_unregister"

    def __init__(self, endpoint: Endpoint, handle: c.c_void_p, memory: Any, layout: Layout):
        super().__init__(endpoint, handle)
        self.memory, self.layout = memory, layout

    def view(self):
        """layout.view of its memory."""
        return self.layout.view(self.memory if hasattr(self.memory, "reshape") else self.memory.__array__())

    def grant(self, blocks: Sequence[int], tokens: int, session: Session | None = None, timeout: float | None = None,
              held_tokens: int = 0) -> Grant:
        """Lets one push fill these blocks with the request's first `tokens`, but for those that they hold already. With `session` it fails if that is lost first; after `timeout` seconds it fails with DEADLINE."""
        o = _kv_abi.baton_kv_grant_options(session=session._handle() if session else None, blocks=_blocks(blocks), block_count=len(blocks), tokens=tokens,
                                           held_tokens=held_tokens, deadline_ns=0 if timeout is None else _deadline(timeout))
        h = c.c_void_p()
        _call("baton_kv_grant_blocks", self._handle(), o, h)
        grant = Grant(self.endpoint, h)
        grant._pool = self
        return grant


class Endpoint:
    """What listens, connects and is polled. `key`: 32 bytes, or key_file; or identity and known_peers. `lease`: seconds."""

    def __init__(self, listen: str | None = None, *, key: bytes | None = None, key_file: str | None = None, name: str = "", lease: float = 0.0,
                 identity: str | None = None, known_peers: str | None = None):
        self._h: int | None = None
        self._handles: weakref.WeakValueDictionary[int, _Handle] = weakref.WeakValueDictionary()
        self._events = (_kv_abi.baton_kv_event * 64)()
        if key is not None and len(key) != 32:
            raise ValueError("a key has 32 bytes")

        def encode(s: str | None):
            return None if s is None else os.fsencode(s)

        o = _kv_abi.baton_kv_endpoint_options(listen=encode(listen), name=name.encode(), key_file=encode(key_file), identity=encode(identity),
                                              known_peers=encode(known_peers), lease_ns=int(lease * 1e9))
        if key is not None:
            o.key = key
        h = c.c_void_p()
        _call("baton_kv_endpoint_open", o, h)
        self._h = h.value

    def _handle(self) -> int:
        if self._h is None:
            raise ValueError("this Endpoint is closed")
        return self._h

    def close(self) -> None:
        """Ends everything that belongs to it."""
        h, self._h = self._h, None
        if h is not None:
            _kv_abi.lib.baton_kv_endpoint_close(h)

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def __del__(self):
        if getattr(self, "_h", None) is not None:
            self.close()

    @property
    def address(self) -> str:
        """Where it listens, "" if it does not."""
        return text(_kv_abi.lib.baton_kv_endpoint_address(self._handle()))

    def connect(self, address: str, timeout: float = 5.0) -> Session:
        """A session with whoever listens there."""
        h = c.c_void_p()
        _call("baton_kv_connect", self._handle(), address.encode(), _deadline(timeout), h)
        return Session(self, h)

    def accept(self, timeout: float | None = 0.0) -> Session | None:
        """The next peer that connected, None if there is none in time."""
        h = c.c_void_p()
        try:
            _call("baton_kv_accept", self._handle(), _deadline(timeout), h)
        except Error as e:
            if e.code == Code.DEADLINE:
                return None
            raise
        return Session(self, h)

    def register(self, memory: Any, layout: Layout, model: str = "", address: int | None = None) -> Pool:
        """A pool of a Memfd, a writable contiguous NumPy array, or, with `address`, any host memory that `memory` keeps alive. Pools of arrays
        are filled by tcp or shm, not mapped."""
        l = layout._c()
        o = _kv_abi.baton_kv_pool_options(layout=c.pointer(l), model=model.encode())
        if isinstance(memory, Memfd):
            o.memory, o.fd, o.bytes = _kv_abi.MEMORY_FD, memory.fd, memory.bytes
            o.base = c.addressof(c.c_char.from_buffer(memory.map))
        elif address is not None:
            o.memory, o.base, o.bytes = _kv_abi.MEMORY_HOST, address, layout.nbytes
        else:
            if not (memory.flags["C_CONTIGUOUS"] and memory.flags["WRITEABLE"]):
                raise ValueError("a pool's array is contiguous and writable")
            o.memory, o.base, o.bytes = _kv_abi.MEMORY_HOST, memory.ctypes.data, memory.nbytes
        h = c.c_void_p()
        _call("baton_kv_register", self._handle(), o, h)
        return Pool(self, h, memory, layout)

    def fileno(self) -> int:
        """Readable when poll() may find something. Not to be closed or read."""
        return _kv_abi.lib.baton_kv_endpoint_fd(self._handle())

    def _take(self, n: int) -> list[Event]:
        return [self._event(e) for e in self._events[:n]]

    def _event(self, e: _kv_abi.baton_kv_event) -> Event:
        kind = EventKind(e.kind) if e.kind in EventKind._value2member_map_ else e.kind
        get = self._handles.get
        return Event(kind, get(e.session), get(e.grant), get(e.push), e.id, e.layers, e.tokens, e.held_tokens, text(e.text or b""),
                     c.string_at(e.bytes, e.byte_count) if e.byte_count else b"", from_c(e.error.contents) if e.error else None)

    def poll(self) -> list[Event]:
        """Makes progress, never sleeps; what happened."""
        self._events[0].struct_size = c.sizeof(_kv_abi.baton_kv_event)
        return self._take(_kv_abi.lib.baton_kv_poll(self._handle(), self._events, len(self._events)))

    def wait(self, timeout: float | None = None) -> list[Event]:
        """Polls until something happened, or `timeout` seconds: then []. Interrupted by Ctrl-C."""
        end = _deadline(timeout)
        while True:
            until = min(end, time.monotonic_ns() + 50_000_000)
            self._events[0].struct_size = c.sizeof(_kv_abi.baton_kv_event)
            events = self._take(_kv_abi.lib.baton_kv_wait(self._handle(), self._events, len(self._events), until))
            if events or until == end:
                return events

    async def events(self) -> AsyncIterator[Event]:
        """Events, as they happen, in an asyncio loop. Other coroutines may use the endpoint meanwhile."""
        loop = asyncio.get_running_loop()
        while True:
            for event in self.poll():
                yield event
            readable = loop.create_future()
            fd = self.fileno()
            loop.add_reader(fd, lambda: readable.done() or readable.set_result(None))
            try:
                await asyncio.wait([readable], timeout=0.1)  # deadlines of grants have no descriptor
            finally:
                loop.remove_reader(fd)
