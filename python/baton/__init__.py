"""Baton: one HAL for unlike silicon. Device, Buffer, Program, Timeline, submit; over libbaton's C ABI by ctypes, nothing to build.

    import baton, numpy
    with baton.Instance() as hal:
        dev = hal.open("emu+neuron://0")
        buf, done, q = dev.alloc(4096), hal.timeline("done"), dev.queue()
        q.submit(baton.fill(buf, 7).signal(done, 1))
        done.wait(1, timeout=1.0)

libbaton is found by BATON_LIBRARY, then in the installed tree that this package is part of, then by the loader.
"""

from .errors import Code, Error
from .handles import Buffer, Device, DeviceInfo, Finding, Heap, Instance, Program, Queue, Timeline, version
from .ops import Op, copy, fill, host, launch, nop

__all__ = ["Buffer", "Code", "Device", "DeviceInfo", "Error", "Finding", "Heap", "Instance", "Op", "Program", "Queue", "Timeline", "copy",
           "fill", "host", "launch", "nop", "version"]
