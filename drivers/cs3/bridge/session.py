"""One client of the bridge: its commands, in order, against memory.py and wafer.py.

Two threads: the reader answers at once what touches the bridge alone (info, telemetry, alloc, chunks of a load), the worker does the rest in order, and
makes every call that blocks in SdkRuntime. The lock is around what both use (the tables of buffers and programs, what is queued), never around such a call."""

from __future__ import annotations

import collections
import queue
import threading
import time

import numpy as np

import link
import memory

READER = ("info", "telemetry", "alloc", "cancel", "load_begin", "load_program", "load_constant", "load_chunk")
ORDER = "the client's bug: load once, run once, then commands, stop once; connect again for another round"


class Stuck(Exception):
    """SdkRuntime has no cancel: only the end of this process frees the system."""


class Loading:
    """A program on its way: bytes, then constants one by one."""

    def __init__(self, count: int):
        self.program, self.constants, self.current = bytearray(count), {}, None
        self.finished = False

    def chunk(self, into, at: int, data: bytes) -> None:
        if into is None or at > len(into) or len(data) > len(into) - at:
            raise link.Refusal(link.CORRUPT, f"a chunk of {len(data)} bytes at {at} of {len(into) if into is not None else 0}", "the client's bug")
        into[at:at + len(data)] = data


class Session:
    def __init__(self, wire: link.Wire, wafer, *, capacity: int, emulated: bool, firmware: str):
        self.wire, self.wafer, self.emulated, self.firmware = wire, wafer, emulated, firmware
        self.lock = threading.RLock()
        self.memory = memory.Memory(capacity, wafer.pull, wafer.push)
        self.commands, self.cancelled, self.queued = queue.Queue(), set(), collections.Counter()
        self.programs, self.next_program = {}, 1
        self.life, self.epoch = "fresh", 1
        self.tensor, self.read_at = bytearray(), None
        self.counters = collections.Counter()
        self.worker = threading.Thread(target=self._work, daemon=True)

    # ---- the reader ----

    def serve(self, grace: float) -> str:
        """Until the client is gone, and what it left running has ended; why."""
        self.worker.start()
        why = "the client is gone"
        try:
            while True:
                s = link.Submission.unpack(self.wire.read(link.Submission.size()))
                wrong = link.check(s)
                if wrong:
                    why = "protocol: " + wrong
                    break
                payload = self.wire.read(link.inline_bytes(s))
                if s.name in READER:
                    self._serve(s, payload)
                    continue
                with self.lock:
                    if s.name in ("stop", "reset"):
                        self.cancelled.update(self.queued)
                    self.queued[s.id] += 1
                self.commands.put((s, payload))
        except link.Gone as e:
            why = str(e)
        with self.lock:
            self.cancelled.update(self.queued)
        self.commands.put(None)
        self.worker.join(grace)
        if self.worker.is_alive():
            raise Stuck(f"a call of SdkRuntime has not ended for {grace:g} s after its client left: a kernel that never unblocks the command stream?")
        self.wafer.stop()
        return why

    def _work(self) -> None:
        while True:
            command = self.commands.get()
            if command is None:
                return
            s, payload = command
            with self.lock:
                self.queued[s.id] -= 1
                if not self.queued[s.id]:
                    del self.queued[s.id]
                cancelled = s.id in self.cancelled
                self.cancelled.discard(s.id)
            try:
                if cancelled:
                    self._refuse(s, link.Refusal(link.CANCELLED, "cancelled by the client"))
                else:
                    self._serve(s, payload)
            except link.Gone:
                pass  # the reader sees the same end

    def _serve(self, s: link.Submission, payload: bytes) -> None:
        begin = time.monotonic_ns()
        done = link.Completion(id=s.id, kind=1)
        try:
            if s.op >= 32 and self.life != "running":
                raise link.Refusal(link.INVALID_ARGUMENT, "the command stream is not running: SdkRuntime must be running to accept memcpy and launch commands", ORDER)
            answer = getattr(self, "_" + s.name, self._unknown)(s, payload, done) or b""
        except link.Refusal as e:
            return self._refuse(s, e)
        except MemoryError:
            return self._refuse(s, link.Refusal(link.CAPACITY, "the bridge's host has no memory for it", "free buffers, or use a larger host"))
        except Exception as e:  # a command without an answer would hang its client
            return self._refuse(s, link.Refusal(link.INTERNAL, f"the bridge: {type(e).__name__}: {e}", "report this, with the bridge's version"))
        self.counters["busy_ns"] += time.monotonic_ns() - begin if s.op >= 32 else 0
        self.counters["ops_done"] += s.op >= 32 and not s.flags & link.MORE
        done.wall_ns, done.payload_bytes, done.epoch = time.monotonic_ns() - begin, len(answer), self.epoch
        self.wire.write(done.pack(), answer)

    def _refuse(self, s: link.Submission, e: link.Refusal) -> None:
        self.counters["ops_failed"] += 1
        text = e.text(s.name + ": ")
        self.wire.write(link.Completion(id=s.id, kind=1, code=e.code, text_bytes=len(text), epoch=self.epoch).pack(), text)

    def _unknown(self, s, payload, done):
        raise link.Refusal(link.UNSUPPORTED, "a bridge has no such command", "symbols and ports are the artifact's own; a fault plan is for emulators")

    # ---- what is answered at once ----

    def _info(self, s, payload, done):
        with self.lock:
            loaded = sum(p.finished for p in self.programs.values())
            r = link.Info(bytes=link.Info.size(), emulated=self.emulated, lanes=1, programs=loaded, epoch=self.epoch, sram_bytes=self.memory.capacity,
                          sram_used=self.memory.used, sessions=1, channels=16, model=b"CS-3", firmware=self.firmware.encode()[:95])
        return r.pack()[:s.payload_bytes]

    def _telemetry(self, s, payload, done):
        names = ("ops_done", "ops_failed", "launches", "bytes_in", "bytes_out", "busy_ns", "transactions")
        return link.Telemetry(bytes=link.Telemetry.size(), **{n: self.counters[n] for n in names}).pack()[:s.payload_bytes]

    def _alloc(self, s, payload, done):
        with self.lock:
            done.handle, done.address = self.memory.alloc(s.bytes)

    def _cancel(self, s, payload, done):
        with self.lock:
            if s.arg0 in self.queued:
                self.cancelled.add(s.arg0)

    def _load_begin(self, s, payload, done):
        with self.lock:
            if s.bytes > 64 << 20:
                raise link.Refusal(link.CAPACITY, f"a program of {s.bytes} bytes", "at most 64 MiB")
            done.handle = self.next_program
            self.programs[done.handle] = Loading(s.bytes)
            self.next_program += 1

    def _loading(self, s, finished: bool = False) -> Loading:
        p = self.programs.get(s.program)
        if p is None or p.finished and not finished:
            raise link.Refusal(link.INVALID_ARGUMENT, f"there is no program {s.program} that loads", "it was unloaded, or never begun")
        return p

    def _load_program(self, s, payload, done):
        with self.lock:
            p = self._loading(s)
            p.chunk(p.program, s.address, payload)

    def _load_constant(self, s, payload, done):
        with self.lock:
            if sum(map(len, self._loading(s).constants.values())) + s.bytes > self.memory.capacity:
                raise link.Refusal(link.CAPACITY, f"constants of over {self.memory.capacity} bytes", "use more wafers")
            self._loading(s).current = self._loading(s).constants[payload.decode(errors="replace")] = bytearray(s.bytes)

    def _load_chunk(self, s, payload, done):
        with self.lock:
            p = self._loading(s)
            p.chunk(p.current, s.address, payload)

    # ---- the worker's: SdkRuntime's own calls ----

    def _load(self, s, payload, done):
        if self.life != "fresh":
            raise link.Refusal(link.INVALID_ARGUMENT, "load comes twice", ORDER)
        if payload:
            self.wafer.load_named(payload.decode(errors="replace"))
        self.life = "loaded"

    def _run(self, s, payload, done):
        if self.life != "loaded":
            raise link.Refusal(link.INVALID_ARGUMENT, "Cannot call run() multiple times, or call run() if load() has not been called", ORDER)
        self.life = "running"

    def _stop(self, s, payload, done):
        if self.life != "running":
            raise link.Refusal(link.INVALID_ARGUMENT, "stop without run", ORDER)
        self.life = "stopped"
        self._drop()

    def _drop(self) -> None:
        with self.lock:
            self.programs.clear()
        self.memory.residents.clear()  # the stream is closed: nobody can look at what is newest there
        self.wafer.stop()

    def _free(self, s, payload, done):
        with self.lock:
            self.memory.free(s.mem)

    def _reset(self, s, payload, done):
        with self.lock:
            self.memory = memory.Memory(self.memory.capacity, self.wafer.pull, self.wafer.push)
            self.programs.clear()
        self.wafer.stop()
        self.life = "fresh"
        self.epoch += 1

    def _load_finish(self, s, payload, done):
        p = self._loading(s)
        self.wafer.load_program(bytes(p.program), p.constants)
        p.constants, p.finished = {}, True  # they are on the wafer now

    def _unload(self, s, payload, done):
        p = self._loading(s, finished=True)
        with self.lock:
            del self.programs[s.program]
        if p.finished:
            self.memory.forget()
            self.wafer.stop()

    def _get_id(self, s, payload, done):
        name = payload[:s.bytes or len(payload)].decode(errors="replace")
        done.handle = 1 if name == "sram" else self.wafer.symbol(name)
        if name == "sram":
            return link.SymbolReply(bytes=link.SymbolReply.size(), id=1, kind=link.LINEAR, name=b"sram").pack() if s.payload_bytes >= 96 else b""

    # ---- the command stream ----

    def _nop(self, s, payload, done):
        return None

    def _transfer(self, s, payload):
        """Chunks of one transfer become one call; of an answer, one call is cut up. The chunk's bytes, for an answer."""
        inward = s.name in link.INWARD
        if s.total > self.memory.capacity or s.address > s.total or s.bytes > s.total - s.address:
            raise link.Refusal(link.INVALID_ARGUMENT, f"{s.bytes} bytes at {s.address} of {s.total}", "the client's bug: total is the whole tensor, and a chunk lies in it")
        if s.total % (2 if s.element_bits == 16 else 4) or s.name in ("send", "receive") and s.total % 8:
            raise link.Refusal(link.INVALID_ARGUMENT, f"{s.total} bytes are not an even number of wavelets",
                               "the client's bug: whole elements; a port moves pairs of 32-bit wavelets")
        call = self.wafer.stream if s.name in ("send", "receive") else self.wafer.memcpy
        if s.address == 0:
            self.tensor, self.read_at = bytearray(s.total), 0
        if len(self.tensor) != s.total or s.address != self.read_at:
            raise link.Refusal(link.INVALID_ARGUMENT, f"a chunk at {s.address} where {self.read_at} is next", "the client's bug: chunks of one transfer follow each other")
        self.read_at += s.bytes
        if inward:
            self.tensor[s.address:s.address + s.bytes] = payload
            if not s.flags & link.MORE:
                call(s, self.tensor)
            return None
        if s.address == 0:
            call(s, self.tensor)
        return bytes(self.tensor[s.address:s.address + s.bytes])

    def _count(self, s) -> None:
        self.counters["transactions"] += not s.flags & link.MORE
        self.counters["bytes_in" if s.name in link.INWARD else "bytes_out"] += s.bytes

    def _memcpy_h2d(self, s, payload, done):
        if s.symbol > 1 or s.w:
            self._transfer(s, payload)
        else:
            self.memory.write(s.mem, s.address, s.bytes)[:] = np.frombuffer(payload, np.uint8)
        self._count(s)

    def _memcpy_d2h(self, s, payload, done):
        if s.symbol > 1 or s.w:
            answer = self._transfer(s, payload)
        else:
            answer = self.memory.read(s.mem, s.address, s.bytes).tobytes()
        self._count(s)
        return answer

    def _send(self, s, payload, done):
        self._transfer(s, payload)
        self._count(s)

    def _receive(self, s, payload, done):
        answer = self._transfer(s, payload)
        self._count(s)
        return answer

    def _copy(self, s, payload, done):
        if s.mem == s.src_mem and s.address < s.src_address + s.bytes and s.src_address < s.address + s.bytes and s.address != s.src_address:
            raise link.Refusal(link.INVALID_ARGUMENT, f"the source and the target of a copy of {s.bytes} bytes overlap", "copy by way of another buffer")
        source = self.memory.read(s.src_mem, s.src_address, s.bytes)
        self.memory.write(s.mem, s.address, s.bytes)[:] = source

    def _fill(self, s, payload, done):
        view = self.memory.write(s.mem, s.address, s.bytes)
        pattern = np.frombuffer(int(s.arg0 & (1 << 8 * s.arg1) - 1).to_bytes(s.arg1, "little"), np.uint8)
        view[:] = np.resize(pattern, len(view))

    def _launch(self, s, payload, done):
        head = link.LaunchHead.unpack(payload.ljust(8, b"\0"))
        if len(payload) != 8 + 88 * head.bindings + 8 * head.args or head.bindings > 128 or head.args > 64:
            raise link.Refusal(link.CORRUPT, f"a launch table of {len(payload)} bytes for {head.bindings} bindings and {head.args} arguments")
        bindings = [link.LaunchBinding.unpack(payload[8 + 88 * i:]) for i in range(head.bindings)]
        args = [int.from_bytes(payload[8 + 88 * head.bindings + 8 * i:][:8], "little") for i in range(head.args)]
        p = self.programs.get(s.program)
        if p is None or not p.finished:
            raise link.Refusal(link.INVALID_ARGUMENT, f"program {s.program} is not loaded", "load it, and keep it until the launch is over")
        bound = [(b, self.wafer.artifact.layout(b.name.split(b"\0")[0].decode(errors="replace"), b.bytes)) for b in bindings]
        if not bound:
            raise link.Refusal(link.UNSUPPORTED, "a launch that binds nothing", "bind at least one value: its symbol is what says that the launch is over")
        for i, (b, layout) in enumerate(bound):
            for c, other in bound[:i]:
                if layout.name == other.name or b.address < c.address + c.bytes and c.address < b.address + b.bytes and (layout.written or other.written):
                    raise link.Refusal(link.UNSUPPORTED, f"'{layout.name}' and '{other.name}' are the same memory, and one of them is written", "bind buffers of their own")
        for b, layout in bound:
            self.memory.bind(b.mem, b.address, b.bytes, layout)
        self.wafer.launch(args, bound[0][1])
        self.memory.launched([layout for _, layout in bound])
        self.counters["launches"] += 1
