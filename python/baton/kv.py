"""Move a KV-cache between two processes; over libbaton-kv's C ABI (transport/baton_kv.h, which says what a call costs and fails with).

    from baton import kv
    ep = kv.Endpoint(listen="127.0.0.1:7000", key_file="baton.key")          # the decode side
    pool = ep.register(kv.Memfd(layout.nbytes), layout, model="m")
    session = ep.accept(timeout=10)
    grant = pool.grant([4, 0, 2], tokens=150, session=session)
    grant.pull(session, b"request 7")                                        # the prefill side: session.push(event.ticket, [(pool, blocks)], event.tokens)
    async for event in ep.events(): ...                                      # or ep.poll(), ep.wait(timeout); ep.fileno() for select

A finished request may be kept until it is pulled (ep.hold, session.track, grant.pull_hold), or lent on one host without a copy (session.lend, session.borrow).

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
from .kv_layout import Layout, kv_call as _call
from .owned import SLICE_NS, Owned, Owner, deadline

__all__ = ["Borrower", "Endpoint", "Event", "EventKind", "Grant", "Hold", "Identity", "Layout", "Lender", "Memfd", "Pool", "Push", "Session", "link_cost",
           "new_identity", "new_key", "read_identity"]

_BULK = ["never", "model", "always"]


def _error(why: Any) -> Any:
    """A baton_error from an Error, a text or None."""
    if why is None:
        return None
    if isinstance(why, Error):
        return _abi.baton_error(code=int(why.code), what=why.what.encode()[:319], next=why.next.encode()[:191])
    return _abi.baton_error(code=int(Code.CANCELLED), what=str(why).encode()[:319])


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
    READY = 9
    UNHELD = 10
    LOAN = 11
    RETURNED = 12


@dataclasses.dataclass(frozen=True)
class Event:
    """What happened, and whose it is: one of session, grant, push, hold, lender, borrower. A kind that this module does not know is an int."""

    kind: EventKind | int
    session: Session | None = None
    grant: Grant | None = None
    push: Push | None = None
    hold: Hold | None = None
    lender: Lender | None = None
    borrower: Borrower | None = None
    id: int = 0       # PULL: for refuse. LOAN, RETURNED: the loan
    layers: int = 0
    tokens: int = 0
    held_tokens: int = 0
    user: int = 0     # LOAN: what it was lent with
    blocks: tuple[int, ...] = ()  # LOAN
    text: str = ""    # PULL: the ticket. NOTE: the type. UNHELD: the hold's id
    data: bytes = b""
    error: Error | None = None

    @property
    def ticket(self) -> str:
        """PULL: what to push into."""
        return self.text


@dataclasses.dataclass(frozen=True)
class Identity:
    """The public half of an identity file: a known-peers file has a line "NAME PUBLIC_KEY roles=decode" for it."""

    public_key: str
    fingerprint: str


def _identity(name: str, path: str) -> Identity:
    i = _kv_abi.baton_kv_identity()
    _call(name, os.fsencode(path), i)
    return Identity(text(i.public_key), text(i.fingerprint))


def new_identity(path: str) -> Identity:
    """Makes an X25519 identity file; never overwrites one."""
    return _identity("baton_kv_identity_new", path)


def read_identity(path: str) -> Identity:
    """The public half of an identity file."""
    return _identity("baton_kv_identity_read", path)


def new_key(path: str) -> None:
    """Makes a key file that both sides are to hold; never overwrites one."""
    _call("baton_kv_key_new", os.fsencode(path))


def link_cost(bytes: int, segments: int, link: str | None = None) -> float:
    """Seconds that moving so many bytes in so many runs takes by the model of a link; None: "efa-trn2"."""
    ns = c.c_uint64()
    _call("baton_kv_link_cost", None if link is None else link.encode(), bytes, segments, ns)
    return ns.value / 1e9


class _Handle(Owned):
    _lib = _kv_abi.lib

    def __init__(self, endpoint: Endpoint, handle: c.c_void_p):
        super().__init__(endpoint, handle)
        self.endpoint = endpoint
        endpoint._handles[self._h] = self

    def _forgotten(self, handle: int) -> None:
        self.endpoint._handles.pop(handle, None)


def _stats(name: str, handle: int) -> dict[str, Any]:
    s = _kv_abi.baton_kv_stats()
    _call(name, handle, s)
    return {"bytes": s.bytes, "segments": s.segments, "layers": s.layers, "fabric": text(s.fabric), "bulk": bool(s.bulk), "rails": s.rails}


def _blocks(blocks: Sequence[int]):
    return (c.c_int32 * len(blocks))(*blocks)


def _sources(sources: Sequence[tuple[Pool, Sequence[int]]]):
    array = (_kv_abi.baton_kv_source * len(sources))()
    for slot, (pool, blocks) in zip(array, sources):
        slot.pool, slot.blocks, slot.block_count = pool._handle(), _blocks(blocks), len(blocks)  # ctypes keeps the blocks with the array
    return array


class Session(_Handle):
    """One authenticated peer."""

    _close = "baton_kv_session_close"

    def info(self) -> dict[str, Any]:
        """name, address, same_host, epoch, bulk_sealed, and of a known peer its name in the file, fingerprint, roles; raises why the session was lost."""
        i = _kv_abi.baton_kv_session_info()
        _call("baton_kv_session_read", self._handle(), i)
        known = {"peer": text(i.peer), "fingerprint": text(i.fingerprint), "roles": text(i.roles).split(",") if i.roles else []}
        return {"name": text(i.name), "address": text(i.address), "same_host": bool(i.same_host), "epoch": text(i.epoch), "bulk_sealed": bool(i.bulk_sealed), **known}

    def notify(self, type: str, data: bytes = b"") -> None:
        """A NOTE for the peer."""
        _call("baton_kv_notify", self._handle(), type.encode(), data, len(data))

    def refuse(self, id: int, why: Error | str | None = None) -> None:
        """Answers the PULL of that id with no."""
        _call("baton_kv_refuse", self._handle(), id, _error(why))

    def _push(self, how: str, ticket: str, sources: Sequence[tuple[Pool, Sequence[int]]], tokens: int, fabric: str, timeout: float, checksum: bool, bulk: str) -> Push:
        array = _sources(sources)
        o = _kv_abi.baton_kv_push_options(source_count=len(array), sources=array, ticket=ticket.encode(), fabric=fabric.encode(), tokens=tokens,
                                          deadline_ns=deadline(timeout), checksum=int(checksum), bulk=_BULK.index(bulk))
        h = c.c_void_p()
        _call(how, self._handle(), o, h)
        push = Push(self.endpoint, h)
        push._pools = [pool for pool, _ in sources]  # whoever has a push has what it reads
        return push

    def begin_push(self, ticket: str, sources: Sequence[tuple[Pool, Sequence[int]]], tokens: int, fabric: str = "auto", timeout: float = 5.0,
                   checksum: bool = False, bulk: str = "never") -> Push:
        """Begins to agree with the peer on a push of these blocks into its ticket, and returns at once: READY comes, or FAILED. Layers may be pushed before, and the
        push sealed. `bulk`: "never", "model" or "always" all layers together."""
        return self._push("baton_kv_push_begin", ticket, sources, tokens, fabric, timeout, checksum, bulk)

    def push(self, ticket: str, sources: Sequence[tuple[Pool, Sequence[int]]], tokens: int, fabric: str = "auto", timeout: float = 5.0,
             checksum: bool = False, bulk: str = "never") -> Push:
        """The same, and blocks for the round trip; raises what FAILED would say."""
        return self._push("baton_kv_push_open", ticket, sources, tokens, fabric, timeout, checksum, bulk)

    def track(self, hold: str) -> None:
        """Keeps a hold of the peer's alive until it is confirmed; UNHELD if the peer has no such. Then Grant.pull_hold."""
        _call("baton_kv_track", self._handle(), hold.encode())

    def lend(self, pool: Pool, name: str = "kv", timeout: float = 5.0) -> Lender:
        """Lets the peer's borrower of that name, on this host, read the pool in place: READY comes, or FAILED."""
        h = c.c_void_p()
        _call("baton_kv_lender_open", self._handle(), pool._handle(), name.encode(), deadline(timeout), h)
        lender = Lender(self.endpoint, h)
        lender._pool = pool
        return lender

    def borrow(self, layout: Layout, model: str = "", name: str = "kv") -> Borrower:
        """Reads in place what the peer lends under that name and this side's layout can read: READY comes, then LOAN for each."""
        h = c.c_void_p()
        _call("baton_kv_borrower_open", self._handle(), layout.c(), model.encode(), name.encode(), h)
        return Borrower(self.endpoint, h)


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

    def pull_hold(self, hold: str) -> None:
        """Asks for a hold that a session tracks; nobody over there need answer."""
        _call("baton_kv_pull_hold", self._handle(), hold.encode())

    def cancel(self, why: Error | str | None = None) -> None:
        """Fails it on both sides, unless it is complete."""
        _kv_abi.lib.baton_kv_grant_cancel(self._handle(), _error(why))

    @property
    def quiet(self) -> bool:
        """Nobody can write into the blocks any more."""
        return bool(_kv_abi.lib.baton_kv_grant_quiet(self._handle()))

    def intact(self) -> None:
        """Raises if one of the blocks belongs to another request by now: ask before what has landed is decoded, and after it was read."""
        _call("baton_kv_grant_intact", self._handle())

    def stats(self) -> dict[str, Any]:
        """bytes, segments, layers, fabric."""
        return _stats("baton_kv_grant_stats", self._handle())


class Push(_Handle):
    """One request on its way."""

    _close = "baton_kv_push_release"

    def __init__(self, endpoint: Endpoint, handle: c.c_void_p):
        super().__init__(endpoint, handle)
        self._failure: Error | None = None
        self._waiting: list[asyncio.Future] = []

    def _told(self, failure: Error | None) -> None:
        """READY or FAILED."""
        self._failure = failure
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def ready(self) -> int:
        """How many layers there are, once the peer has agreed; raises why not. For a coroutine, while another one goes through Endpoint.events()."""
        if not self.layers and self._failure is None:
            self._waiting.append(asyncio.get_running_loop().create_future())
            await self._waiting[-1]
        if self._failure is not None:
            raise self._failure
        return self.layers

    @property
    def layers(self) -> int:
        """How many each source has to push: those that the peer's pool holds. 0 before READY."""
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


class Hold(_Handle):
    """A request's blocks, kept until they are pulled: COMPLETE or FAILED says that they are the caller's again."""

    _close = "baton_kv_hold_release"

    @property
    def id(self) -> str:
        """For the decode side."""
        return text(_kv_abi.lib.baton_kv_hold_id(self._handle()))

    def cancel(self) -> None:
        """It is not wanted any more: FAILED comes once nothing of it is under way. close() waits for that."""
        _kv_abi.lib.baton_kv_hold_cancel(self._handle())


class Lender(_Handle):
    """A pool that the peer may read in place."""

    _close = "baton_kv_lender_close"

    def lend(self, blocks: Sequence[int], tokens: int, user: int = 0) -> int:
        """Lends blocks; RETURNED names the loan when they are back."""
        loan = c.c_uint64()
        _call("baton_kv_lend", self._handle(), _blocks(blocks), len(blocks), tokens, user, loan)
        return loan.value

    def recall(self, loan: int) -> None:
        """The blocks are this side's at once."""
        _kv_abi.lib.baton_kv_recall(self._handle(), loan)


class Borrower(_Handle):
    """A lender's pool, read in place."""

    _close = "baton_kv_borrower_close"

    def _memory(self) -> tuple[int, Layout]:
        at, l = c.c_void_p(), _kv_abi.baton_kv_layout()
        _call("baton_kv_borrower_memory", self._handle(), at, l)
        return at.value, Layout.of(l)

    @property
    def layout(self) -> Layout:
        """The lender's."""
        return self._memory()[1]

    def view(self):
        """layout.view of the lender's memory, read-only. Not to be used after close()."""
        import numpy

        at, layout = self._memory()
        memory = (c.c_uint8 * layout.nbytes).from_address(at)
        memory._borrower = self  # whoever has a view has the borrower
        flat = numpy.frombuffer(memory, numpy.uint8)
        flat.flags.writeable = False
        return layout.view(flat)

    def check(self, loan: int) -> None:
        """After reading and before using what was read: raises CANCELLED if it may have changed meanwhile."""
        _call("baton_kv_loan_check", self._handle(), loan)

    def give_back(self, loan: int) -> None:
        """The blocks are the lender's."""
        _kv_abi.lib.baton_kv_loan_return(self._handle(), loan)


class Pool(_Handle):
    """Registered memory with a layout. Keeps what it was made of."""

    _close = "baton_kv_unregister"

    def __init__(self, endpoint: Endpoint, handle: c.c_void_p, memory: Any, layout: Layout):
        super().__init__(endpoint, handle)
        self.memory, self.layout = memory, layout

    def view(self):
        """layout.view of its memory."""
        return self.layout.view(self.memory if hasattr(self.memory, "reshape") else self.memory.__array__())

    def renew(self, blocks: Sequence[int]) -> None:
        """Says that these blocks belong to another request from now on, before anything is written into them: pushes and holds that were begun with one of
        them fail instead of sending what is not theirs, and grants that have one are no longer intact. grant() does it by itself."""
        _call("baton_kv_renew", self._handle(), _blocks(blocks), len(blocks))

    def grant(self, blocks: Sequence[int], tokens: int, session: Session | None = None, timeout: float | None = None,
              held_tokens: int = 0) -> Grant:
        """Lets one push fill these blocks with the request's first `tokens`, but for those that they hold already. With `session` it fails if that is lost first; after `timeout` seconds it fails with DEADLINE."""
        o = _kv_abi.baton_kv_grant_options(session=session._handle() if session else None, blocks=_blocks(blocks), block_count=len(blocks), tokens=tokens,
                                           held_tokens=held_tokens, deadline_ns=0 if timeout is None else deadline(timeout))
        h = c.c_void_p()
        _call("baton_kv_grant_blocks", self._handle(), o, h)
        grant = Grant(self.endpoint, h)
        grant._pool = self
        return grant


class Endpoint(Owner):
    """What listens, connects and is polled. `key`: 32 bytes, or key_file; or identity and known_peers (new_identity), and of who connects a role of accept_roles.
    `seal`: KV that leaves the host is encrypted. `rails`: NICs to move it over ("eth0,eth1", "all"), if the peer has some too. `lease`, `recheck_peers`, `hold_beat`: seconds; 0: 1.5 s, never, 5 s."""

    def __init__(self, listen: str | None = None, *, key: bytes | None = None, key_file: str | None = None, name: str = "", lease: float = 0.0,
                 identity: str | None = None, known_peers: str | None = None, accept_roles: Sequence[str] = (), recheck_peers: float = 0.0,
                 hold_beat: float = 0.0, seal: bool = False, rails: str | None = None):
        self._handles: weakref.WeakValueDictionary[int, _Handle] = weakref.WeakValueDictionary()
        self._events = (_kv_abi.baton_kv_event * 64)()
        if key is not None and len(key) != 32:
            raise ValueError("a key has 32 bytes")

        def encode(s: str | None):
            return None if s is None else os.fsencode(s)

        o = _kv_abi.baton_kv_endpoint_options(listen=encode(listen), name=name.encode(), key_file=encode(key_file), identity=encode(identity),
                                              known_peers=encode(known_peers), lease_ns=int(lease * 1e9), accept_roles=",".join(accept_roles).encode() or None,
                                              recheck_peers_ns=int(recheck_peers * 1e9), hold_beat_ns=int(hold_beat * 1e9), seal_bulk=int(seal), rails=encode(rails))
        if key is not None:
            o.key = key
        h = c.c_void_p()
        _call("baton_kv_endpoint_open", o, h)
        self._h = h.value

    def close(self) -> None:
        """Ends everything that belongs to it."""
        h, self._h = self._h, None
        if h is not None:
            _kv_abi.lib.baton_kv_endpoint_close(h)

    @property
    def address(self) -> str:
        """Where it listens, "" if it does not."""
        return text(_kv_abi.lib.baton_kv_endpoint_address(self._handle()))

    def connect(self, address: str, timeout: float = 5.0, peer: str | None = None, role: str | None = None) -> Session:
        """A session with whoever listens there; with identities, only if it is the known peer of that name, or has that role."""
        o = _kv_abi.baton_kv_connect_options(peer=None if peer is None else peer.encode(), role=None if role is None else role.encode())
        h = c.c_void_p()
        _call("baton_kv_connect_to", self._handle(), address.encode(), o, deadline(timeout), h)
        return Session(self, h)

    def drop_unknown_peers(self) -> int:
        """Reads the known peers again and ends the sessions of those that are gone from it; how many."""
        return _kv_abi.lib.baton_kv_endpoint_drop_unknown_peers(self._handle())

    def hold(self, sources: Sequence[tuple[Pool, Sequence[int]]], tokens: int, fabric: str = "auto", lease: float = 0.0) -> Hold:
        """Keeps these blocks for whoever is told the id, for `lease` seconds (0: 30) from the last that was heard of it."""
        array = _sources(sources)
        o = _kv_abi.baton_kv_hold_options(source_count=len(array), sources=array, fabric=fabric.encode(), tokens=tokens, lease_ns=int(lease * 1e9))
        h = c.c_void_p()
        _call("baton_kv_hold_blocks", self._handle(), o, h)
        hold = Hold(self, h)
        hold._pools = [pool for pool, _ in sources]
        return hold

    def confirm(self, hold: str) -> None:
        """Everything of a tracked hold is here; the other side may free it."""
        _kv_abi.lib.baton_kv_confirm(self._handle(), hold.encode())

    def untrack(self, hold: str) -> None:
        """A tracked hold is not wanted any more."""
        _kv_abi.lib.baton_kv_untrack(self._handle(), hold.encode())

    def accept(self, timeout: float | None = 0.0) -> Session | None:
        """The next peer that connected, None if there is none in time."""
        h = c.c_void_p()
        try:
            _call("baton_kv_accept", self._handle(), deadline(timeout), h)
        except Error as e:
            if e.code == Code.DEADLINE:
                return None
            raise
        return Session(self, h)

    def register(self, memory: Any, layout: Layout, model: str = "", address: int | None = None) -> Pool:
        """A pool of a Memfd, a writable contiguous NumPy array, or, with `address`, any host memory that `memory` keeps alive. Pools of arrays
        are filled by tcp or shm, not mapped."""
        l = layout.c()
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
        event = Event(kind, get(e.session), get(e.grant), get(e.push), get(e.hold), get(e.lender), get(e.borrower), e.id, e.layers, e.tokens, e.held_tokens, e.user,
                      tuple(e.blocks[:e.block_count]) if e.block_count else (), text(e.text or b""), c.string_at(e.bytes, e.byte_count) if e.byte_count else b"",
                      from_c(e.error.contents) if e.error else None)
        if event.push is not None and kind in (EventKind.READY, EventKind.FAILED):
            event.push._told(event.error)
        return event

    def poll(self) -> list[Event]:
        """Makes progress, never sleeps; what happened."""
        self._events[0].struct_size = c.sizeof(_kv_abi.baton_kv_event)
        return self._take(_kv_abi.lib.baton_kv_poll(self._handle(), self._events, len(self._events)))

    def wait(self, timeout: float | None = None) -> list[Event]:
        """Polls until something happened, or `timeout` seconds: then []. Interrupted by Ctrl-C."""
        end = deadline(timeout)
        while True:
            until = min(end, time.monotonic_ns() + SLICE_NS)
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
