"""A client of the wafer link over TCP, in Python: commands out, completions in, by id. Entries are the bridge's (drivers/cs3/bridge/link.py)."""

from __future__ import annotations

import socket

import link


class Failed(RuntimeError):
    def __init__(self, code: int, text: str):
        super().__init__(text)
        self.code = code


class Client:
    def __init__(self, host: str, port: int, *, major: int = link.MAJOR, minor: int = link.MINOR):
        self.wire = link.Wire(socket.create_connection((host, port), timeout=60))
        self.wire.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.wire.write(link.Hello(magic=link.MAGIC, major=major, minor=minor, hello_bytes=128, carrier=1, pid=1, program=b"wafer_client.py").pack())
        self.welcome = link.Welcome.unpack(self.wire.read(512))
        if self.welcome.code:
            self.close()
            raise Failed(self.welcome.code, self.welcome.text.rstrip(b"\0").decode())
        self.next_id, self.done = 1, {}

    def send(self, op: str, payload: bytes = b"", room: int = 0, **fields) -> int:
        """The command's id; room: bytes for its answer."""
        count = max(len(payload), room)
        s = link.Submission(op=link.NUMBER[op], id=self.next_id, where=link.ARENA if count else link.NONE, payload_bytes=count, **fields)
        self.next_id += 1
        self.wire.write(s.pack(), payload.ljust(link.inline_bytes(s), b"\0"))
        return s.id

    def receive_one(self) -> None:
        c = link.Completion.unpack(self.wire.read(64))
        text, payload = self.wire.read(c.text_bytes).decode(), self.wire.read(c.payload_bytes)
        if c.kind == 1:
            self.done[c.id] = (c, text, payload)

    def is_done(self, task: int) -> bool:
        """Takes what has come, without waiting for more than a whole completion."""
        self.wire.socket.setblocking(False)
        try:
            while task not in self.done and self.wire.socket.recv(1, socket.MSG_PEEK):
                self.wire.socket.settimeout(60)
                self.receive_one()
                self.wire.socket.setblocking(False)
        except BlockingIOError:
            pass
        finally:
            self.wire.socket.settimeout(60)
        return task in self.done

    def wait(self, task: int):
        while task not in self.done:
            self.receive_one()
        c, text, payload = self.done.pop(task)
        if c.code:
            raise Failed(c.code, text)
        return c, payload

    def call(self, op: str, payload: bytes = b"", room: int = 0, **fields):
        return self.wait(self.send(op, payload, room, **fields))

    def transfer(self, op: str, tensor, **fields) -> list:
        """Ids of the chunks of one memcpy, send or receive: of bytes that go, or of a number of bytes that come."""
        total = tensor if isinstance(tensor, int) else len(tensor)
        tasks = []
        base = fields.pop("address", 0)
        for at in range(0, total, link.MAX_PAYLOAD):
            n = min(link.MAX_PAYLOAD, total - at)
            flags = fields.get("flags", 0) | (link.MORE if at + n < total else 0)
            payload = b"" if isinstance(tensor, int) else tensor[at:at + n]
            tasks.append(self.send(op, payload, n, **{**fields, "address": base + at, "bytes": n, "total": total, "flags": flags}))
        return tasks

    def close(self) -> None:
        self.wire.close()
