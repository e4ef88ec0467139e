"""What every handle does, of libbaton and of libbaton-kv: it is closed once, by close(), the end of a `with` or the collector, and before its owner is."""

from __future__ import annotations

import ctypes as c
import time

from . import _abi

SLICE_NS = 50_000_000  # a wait looks for Ctrl-C so often: signal handlers of Python run between calls only


def deadline(timeout: float | None) -> int:
    """`timeout` seconds from now as CLOCK_MONOTONIC; None: never."""
    return _abi.NO_DEADLINE if timeout is None else time.monotonic_ns() + max(0, int(timeout * 1e9))


class Owner:
    """Something with a C handle; whoever derives says what close() does."""

    _h: int | None = None

    def _handle(self) -> int:
        if self._h is None:
            raise ValueError(f"this {type(self).__name__.lstrip('_')} is closed")
        return self._h

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._h is None

    def close(self) -> None:
        """Closes it now; a second time does nothing."""
        raise NotImplementedError

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def __del__(self):
        if getattr(self, "_h", None) is not None:
            self.close()


class Owned(Owner):
    """A handle that an owner made."""

    _lib: c.CDLL = _abi.lib
    _close = ""  # the C function

    def __init__(self, owner: Owner, handle: c.c_void_p):
        self._h = handle.value
        self._owner = owner

    def close(self) -> None:
        """Closes it now; a second time does nothing."""
        h, self._h = self._h, None
        if h is not None and self._owner._h is not None:  # the collector may end an owner before what it made
            self._forgotten(h)
            getattr(self._lib, self._close)(h)

    def _forgotten(self, handle: int) -> None:
        """The owner's lists, before the handle is closed."""
