"""The wafer link in Python: entries as in drivers/cs3/link/wire.h, their checks, and both ends of a TCP connection's framing.

Python 3 standard library alone, so that it runs under cs_python. The tests' client and the bridge share it."""

from __future__ import annotations

import struct
import threading

MAGIC = b"BATONWL\0"
MAJOR, MINOR = 1, 1
MAX_PAYLOAD = 1 << 20
CAP_RECTANGLES, CAP_PORTS = 8, 16

OPS = ["info", "telemetry", "get_id", "run", "stop", "reset", "alloc", "free", "region_add", "region_drop", "load_begin", "load_program", "load_constant",
       "load_chunk", "load_finish", "unload", "cancel", "load", "symbol", "port", "fault"]
STREAM = ["nop", "memcpy_h2d", "memcpy_d2h", "copy", "fill", "launch", "send", "receive"]
NUMBER = {**{n: i + 1 for i, n in enumerate(OPS)}, **{n: i + 32 for i, n in enumerate(STREAM)}}
NAME = {v: k for k, v in NUMBER.items()}
TRANSFERS = ("memcpy_h2d", "memcpy_d2h", "send", "receive")
INWARD = ("memcpy_h2d", "send")
MORE, ALONG_ROWS, ALONG_COLUMNS = 2, 4, 8
NONE, ARENA, REGION = 0, 1, 2
LINEAR, ARRAY, INPUT_PORT, OUTPUT_PORT = 1, 2, 3, 4

# baton_code of hal/baton.h
INVALID_ARGUMENT, NOT_FOUND, BUSY, UNSUPPORTED, CAPACITY = 1, 2, 4, 5, 6
CANCELLED, VERSION, MISMATCH, CORRUPT, FAILED, INTERNAL = 10, 11, 12, 13, 14, 16


class Refusal(Exception):
    """One line of what, and what next: a command's completion, or a Welcome's."""

    def __init__(self, code: int, what: str, next: str = ""):
        super().__init__(what)
        self.code, self.what, self.next = code, what, next

    def text(self, before: str = "") -> bytes:
        return (before + self.what + ("\n" + self.next if self.next else "")).encode()[:512]


class Gone(Exception):
    """The other side is gone, or broke the protocol: the text says which."""


class Struct:
    """Fields by name over a little-endian format; what is not given is zero."""

    FORMAT, FIELDS = "", ""

    def __init__(self, **values):
        for name, code in zip(self.names(), self.codes()):
            setattr(self, name, values.pop(name, b"" if code[-1] == "s" else 0))
        if values:
            raise TypeError(f"{type(self).__name__} has no {list(values)}")

    @classmethod
    def names(cls):
        return cls.FIELDS.split()

    @classmethod
    def codes(cls):
        return cls.FORMAT.split()

    @classmethod
    def layout(cls):
        return struct.Struct("<" + "".join(cls.codes()))

    @classmethod
    def size(cls):
        return cls.layout().size

    def pack(self) -> bytes:
        return self.layout().pack(*(getattr(self, n) for n in self.names()))

    @classmethod
    def unpack(cls, data: bytes):
        return cls(**dict(zip(cls.names(), cls.layout().unpack(data[:cls.size()]))))


class Hello(Struct):
    FORMAT = "8s H H I Q 16s B 3s I 64s 16s"
    FIELDS = "magic major minor hello_bytes capabilities boot_id carrier zero0 pid program zero"


class Welcome(Struct):
    FORMAT = "8s H H i 256s Q 16s Q Q I B B 2s 100s I 88s"
    FIELDS = "magic major minor code text capabilities boot_id instance epoch pid same_host emulated zero0 unix_name segment_bytes zero"


class Submission(Struct):
    FORMAT = "Q H H I I I Q Q Q B B B B I Q I H H H H H H I I Q Q Q H H 12s"
    FIELDS = ("id op flags tag mem program address bytes total where element_bits order channels region payload_offset payload_bytes symbol zero0 "
              "x y w h elements_per_pe src_mem src_address arg0 arg1 row_stride col_stride zero")

    @property
    def name(self) -> str:
        return NAME[self.op]


class Completion(Struct):
    FORMAT = "Q B B H i Q Q Q I I Q Q"
    FIELDS = "id kind zero0 text_bytes code value cost_ns wall_ns payload_bytes handle address epoch"


class LaunchHead(Struct):
    FORMAT, FIELDS = "H H I", "bindings args zero"


class LaunchBinding(Struct):
    FORMAT, FIELDS = "64s I I Q Q", "name mem zero address bytes"


class Info(Struct):
    FORMAT = "I I I I I I Q Q Q H H I 64s 96s 96s I H H 128s"
    FIELDS = ("bytes emulated lanes progress modelled programs epoch sram_bytes sram_used fabric_w fabric_h sessions model firmware timing lost channels "
              "bad_row_count bad_rows")


class Telemetry(Struct):
    FORMAT = "I I Q Q Q Q Q Q Q Q Q Q Q Q 128s"
    FIELDS = ("bytes zero ops_done ops_failed launches bytes_in bytes_out busy_ns modelled_ns transactions wavelets_in wavelets_out wire_bytes_in wire_bytes_out "
              "channel_bytes")


class SymbolReply(Struct):
    FORMAT = "I H B B H H H H I I Q 64s"
    FIELDS = "bytes id kind zero x y w h elements_per_pe mem base name"


for _type, _bytes in ((Hello, 128), (Welcome, 512), (Submission, 128), (Completion, 64), (LaunchBinding, 88), (Info, 448), (Telemetry, 232), (SymbolReply, 96)):
    assert _type.size() == _bytes, _type


def check(s: Submission) -> str:
    """What is wrong with an entry's structure, or nothing; as check() of wire.cc."""
    if s.op not in NAME:
        return "unknown op"
    if s.id == 0:
        return "id 0"
    if s.where not in (NONE, ARENA):
        return "a region on a TCP connection"
    if s.zero0 or s.zero != bytes(12):
        return "reserved bytes are not zero"
    if s.payload_bytes > MAX_PAYLOAD:
        return "payload over 1 MiB"
    if s.where == NONE and (s.payload_bytes or s.payload_offset):
        return "payload place or bytes without a payload"
    if s.name in TRANSFERS:
        if s.where != ARENA or s.bytes != s.payload_bytes or s.bytes > s.total:
            return "a transfer's size is not the payload's"
        if s.element_bits not in (0, 16, 32) or s.order > 1 or s.channels > 16:
            return "element bits, order or channels that there are not"
        if s.flags & ALONG_ROWS and s.flags & ALONG_COLUMNS or s.flags & (ALONG_ROWS | ALONG_COLUMNS) and s.name != "memcpy_h2d":
            return "a broadcast that cannot be"
        if max(s.row_stride, s.col_stride) > 1 and (s.flags & (ALONG_ROWS | ALONG_COLUMNS) or s.name != "memcpy_h2d"):
            return "a stride that cannot be"
    if s.name == "fill" and s.arg1 not in (1, 2, 4):
        return "fill pattern is not 1, 2 or 4 bytes"
    return ""


def inline_bytes(s: Submission) -> int:
    answers = ("memcpy_d2h", "receive", "info", "telemetry")
    return s.payload_bytes if s.where == ARENA and s.name not in answers and not (s.name == "fault" and s.arg0 == 0) else 0


class Wire:
    """A connected socket: whole structures and payloads in and out. Sends are whole under a lock; one thread reads."""

    def __init__(self, socket):
        self.socket, self.lock = socket, threading.Lock()

    def read(self, count: int) -> bytes:
        data = bytearray(count)
        view = memoryview(data)
        while view:
            try:
                n = self.socket.recv_into(view)
            except OSError as e:
                raise Gone(f"the connection failed ({e})") from e
            if n == 0:
                raise Gone("the connection closed")
            view = view[n:]
        return bytes(data)

    def write(self, *parts: bytes) -> None:
        try:
            with self.lock:
                self.socket.sendall(b"".join(parts))
        except OSError as e:
            raise Gone(f"the connection failed ({e})") from e

    def close(self) -> None:
        self.socket.close()
