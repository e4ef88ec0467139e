"""The C ABI (hal/baton.h) as ctypes sees it: structs, prototypes, the library. tests/python checks every line against the recorded table
of the ABI (tests/abi/v1.table)."""

from __future__ import annotations

import ctypes as c
import os
from pathlib import Path

u8, u16, u32, u64, i32, i64 = c.c_uint8, c.c_uint16, c.c_uint32, c.c_uint64, c.c_int32, c.c_int64
NO_DEADLINE = 2**64 - 1


class Struct(c.Structure):
    """A struct of baton.h; those that start with struct_size have it set."""

    def __init__(self, *args, **kw):
        super().__init__(*args, **kw)
        if self._fields_[0][0] == "struct_size":
            self.struct_size = c.sizeof(self)


class baton_error(Struct):
    _fields_ = [("struct_size", u32), ("code", i32), ("epoch", u64), ("device", c.c_char * 64), ("hop", c.c_char * 96),
                ("what", c.c_char * 320), ("next", c.c_char * 192)]


class baton_instance_options(Struct):
    _fields_ = [("struct_size", u32), ("reserved", u32), ("driver_path", c.c_char_p), ("emulator_path", c.c_char_p),
                ("layers", c.c_char_p)]


class baton_heap_info(Struct):
    _fields_ = [("name", c.c_char * 16), ("bytes_total", u64), ("bytes_used", u64), ("mappable", u32), ("exportable", u32)]


class baton_device_info(Struct):
    _fields_ = [("struct_size", u32), ("emulated", u32), ("uri", c.c_char * 128), ("name", c.c_char * 32), ("model", c.c_char * 64),
                ("driver", c.c_char * 32), ("firmware", c.c_char * 96), ("location", c.c_char * 64), ("epoch", u64), ("lanes", u32),
                ("heap_count", u32), ("heaps", baton_heap_info * 16), ("collectives", u32), ("progress", u32), ("modelled", u32),
                ("numa_node", u32), ("timing", c.c_char * 96)]


class baton_telemetry(Struct):
    _fields_ = [("struct_size", u32), ("reserved", u32), ("ops_done", u64), ("ops_failed", u64), ("launches", u64), ("bytes_in", u64),
                ("bytes_out", u64), ("busy_ns", u64), ("modelled_ns", u64), ("health", u32), ("instruments", u32), ("ecc_corrected", u64),
                ("ecc_uncorrected", u64), ("hw_errors", u64), ("power_percent_x100", u32), ("reserved2", u32)]


class baton_constant(Struct):
    _fields_ = [("name", c.c_char_p), ("data", c.c_void_p), ("bytes", u64)]


class baton_point(Struct):
    _fields_ = [("timeline", c.c_void_p), ("value", u64)]


class baton_binding(Struct):
    _fields_ = [("name", c.c_char_p), ("buffer", c.c_void_p), ("offset", u64), ("bytes", u64)]


class _Copy(c.Structure):
    _fields_ = [("src", c.c_void_p), ("dst", c.c_void_p), ("src_offset", u64), ("dst_offset", u64), ("bytes", u64)]


class _Plan(c.Structure):
    _fields_ = [("plan", c.c_void_p), ("step", u64), ("zero", u64 * 3)]


class _Launch(c.Structure):
    _fields_ = [("program", c.c_void_p), ("bindings", c.POINTER(baton_binding)), ("args", c.POINTER(i64)), ("progress", c.c_void_p),
                ("progress_base", u64)]


class _Fill(c.Structure):
    _fields_ = [("dst", c.c_void_p), ("offset", u64), ("bytes", u64), ("pattern", u32), ("pattern_bytes", u32)]


class _Host(c.Structure):
    _fields_ = [("fn", c.c_void_p), ("user", c.c_void_p)]


class _Union(c.Union):
    _fields_ = [("copy", _Copy), ("plan", _Plan), ("launch", _Launch), ("fill", _Fill), ("host", _Host)]


class baton_op(Struct):
    _fields_ = [("opcode", u8), ("flags", u8), ("reserved", u16), ("tag", u32), ("wait", baton_point * 2), ("signal", baton_point * 2),
                ("u", _Union), ("binding_count", u16), ("arg_count", u16), ("plan_op", u32), ("user", u64)]


class baton_finding(Struct):
    _fields_ = [("struct_size", u32), ("severity", u32), ("code", c.c_char_p), ("blame", c.c_char_p), ("what", c.c_char_p),
                ("next", c.c_char_p)]


OP_NOP, OP_COPY, OP_LAUNCH, OP_FILL, OP_HOST = range(5)

enumerate_fn = c.CFUNCTYPE(i32, c.c_void_p, c.POINTER(baton_device_info))
host_fn = c.CFUNCTYPE(None, c.c_void_p)
finding_fn = c.CFUNCTYPE(None, c.c_void_p, c.POINTER(baton_finding))
MISUSE = 2  # baton_severity

_P, _E = c.c_void_p, c.POINTER(baton_error)
_OUT = c.POINTER(c.c_void_p)
PROTOTYPES = {
    "baton_code_name": (c.c_char_p, [i32]),
    "baton_version": (c.c_char_p, []),
    "baton_instance_create": (i32, [c.POINTER(baton_instance_options), _OUT, _E]),
    "baton_instance_destroy": (None, [_P]),
    "baton_poll": (u32, [_P, u32]),
    "baton_instance_fd": (c.c_int, [_P]),
    "baton_poll_wait": (u32, [_P, u64]),
    "baton_enumerate": (i32, [_P, enumerate_fn, _P, _E]),
    "baton_open": (i32, [_P, c.c_char_p, _OUT, _E]),
    "baton_close": (None, [_P]),
    "baton_info": (i32, [_P, c.POINTER(baton_device_info), _E]),
    "baton_telemetry_read": (i32, [_P, c.POINTER(baton_telemetry), _E]),
    "baton_reset": (i32, [_P, _E]),
    "baton_alloc": (i32, [_P, u32, u64, _OUT, _E]),
    "baton_free": (None, [_P]),
    "baton_buffer_bytes": (u64, [_P]),
    "baton_map": (i32, [_P, _OUT, _E]),
    "baton_export": (i32, [_P, c.POINTER(c.c_int), c.POINTER(u64), _E]),
    "baton_fence": (i32, [_P, u64, u64, _E]),
    "baton_import": (i32, [_P, c.c_int, u64, u64, _OUT, _E]),
    "baton_load": (i32, [_P, u32, _P, u64, c.POINTER(baton_constant), u32, u32, u32, _OUT, _E]),
    "baton_unload": (None, [_P]),
    "baton_timeline_create": (i32, [_P, c.c_char_p, _OUT, _E]),
    "baton_timeline_destroy": (None, [_P]),
    "baton_timeline_signal": (None, [_P, u64, u64]),
    "baton_timeline_poison": (None, [_P, _E]),
    "baton_timeline_query": (i32, [_P, c.POINTER(u64), _E]),
    "baton_timeline_modelled": (u64, [_P, u64]),
    "baton_timeline_wait": (i32, [_P, u64, u64, _E]),
    "baton_queue_open": (i32, [_P, u32, _OUT, _E]),
    "baton_link_open": (i32, [_P, _P, _OUT, _E]),
    "baton_queue_close": (None, [_P]),
    "baton_submit": (i32, [_P, c.POINTER(baton_op), u32, _E]),
    "baton_plan_copy": (i32, [_P, _P, c.c_char_p, u64, _E]),
    "baton_set_finding_callback": (i32, [_P, finding_fn, _P, _E]),
}


def _candidates(name: str):
    """BATON_LIBRARY (the file, or its folder); the installed tree that this package is part of; the loader's path."""
    given = os.environ.get("BATON_LIBRARY")
    if given:
        path = Path(given)
        yield str(path / name if path.is_dir() else path.parent / name if name != "libbaton.so.0" else path)
        return
    lib = Path(__file__).resolve().parents[3] if len(Path(__file__).resolve().parents) > 3 else None  # PREFIX/lib/python3/dist-packages/baton
    if lib:
        yield from (str(p) for p in [lib / name, *sorted(lib.glob("*/" + name))] if p.exists())
    yield name


def load(name: str) -> c.CDLL:
    """The first library of that name that loads. CDLL: the GIL is released for the length of each call."""
    tried = []
    for path in _candidates(name):
        try:
            return c.CDLL(path)
        except OSError as e:
            tried.append(str(e))
    raise ImportError(f"{name} was not found: {'; '.join(tried)}. next: set BATON_LIBRARY to the path of libbaton.so.0")


lib = load("libbaton.so.0")
for _name, (_result, _arguments) in PROTOTYPES.items():
    _f = getattr(lib, _name)
    _f.restype, _f.argtypes = _result, _arguments
