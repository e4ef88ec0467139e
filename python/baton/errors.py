"""A failure as an exception: the code, what happened with its numbers, and what to do next."""

from __future__ import annotations

import enum

from . import _abi


class Code(enum.IntEnum):
    """baton_code. The numbers and names never change; codes are only added."""

    OK = 0
    INVALID_ARGUMENT = 1
    NOT_FOUND = 2
    PERMISSION = 3
    BUSY = 4
    UNSUPPORTED = 5
    CAPACITY = 6
    DEVICE_LOST = 7
    PEER_LOST = 8
    DEADLINE = 9
    CANCELLED = 10
    VERSION = 11
    MISMATCH = 12
    CORRUPT = 13
    FAILED = 14
    IO = 15
    INTERNAL = 16


class Error(Exception):
    """What a call or an op failed with. `code` is a Code (an int if this module is older than the library)."""

    def __init__(self, code: int, what: str, next: str = "", device: str = "", hop: str = "", epoch: int = 0):
        self.code = Code(code) if code in Code._value2member_map_ else code
        self.what, self.next, self.device, self.hop, self.epoch = what, next, device, hop, epoch
        text = f"{_abi.lib.baton_code_name(int(code)).decode()}{' ' + device if device else ''}: {what}"
        super().__init__(text + (f" (hop: {hop})" if hop else "") + (f"; next: {next}" if next else ""))


def text(field: bytes) -> str:
    """A text of the library's; cut in the middle of a character, that one is replaced."""
    return field.decode("utf-8", "replace")


def from_c(e: _abi.baton_error) -> Error:
    """The exception for what a C call filled."""
    return Error(e.code, text(e.what), text(e.next), text(e.device), text(e.hop), e.epoch)


def call(name: str, *arguments, lib=_abi.lib) -> None:
    """A C function that takes a baton_error last; raises what it reports."""
    e = _abi.baton_error()
    if getattr(lib, name)(*arguments, e):
        raise from_c(e)
