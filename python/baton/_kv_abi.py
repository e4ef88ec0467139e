"""The C ABI of the transport (transport/baton_kv.h) as ctypes sees it. tests/python checks every line against the recorded table
(tests/abi/kv1.table). Loads libbaton-kv.so.0, and with it libfabric: import baton.kv only where KV is moved."""

from __future__ import annotations

import ctypes as c

from . import _abi
from ._abi import Struct, baton_error, i32, u32, u64


class baton_kv_layout(Struct):
    _fields_ = [(n, u32) for n in ("struct_size", "layers", "kv_heads", "head_dim", "dtype", "order", "pairing", "block_tokens", "blocks", "head_begin",
                                   "head_count", "layer_begin", "layer_count", "rope_dim", "scales", "reserved")]


class baton_kv_endpoint_options(Struct):
    _fields_ = [("struct_size", u32), ("reserved", u32), ("instance", c.c_void_p), ("listen", c.c_char_p), ("name", c.c_char_p),
                ("key_file", c.c_char_p), ("key", c.c_char_p), ("identity", c.c_char_p), ("known_peers", c.c_char_p), ("lease_ns", u64),
                ("accept_roles", c.c_char_p), ("recheck_peers_ns", u64), ("hold_beat_ns", u64), ("seal_bulk", u32), ("reserved2", u32), ("rails", c.c_char_p)]


class baton_kv_identity(Struct):
    _fields_ = [("struct_size", u32), ("reserved", u32), ("public_key", c.c_char * 72), ("fingerprint", c.c_char * 40)]


class baton_kv_connect_options(Struct):
    _fields_ = [("struct_size", u32), ("reserved", u32), ("peer", c.c_char_p), ("role", c.c_char_p)]


class baton_kv_session_info(Struct):
    _fields_ = [("struct_size", u32), ("same_host", u32), ("name", c.c_char * 64), ("address", c.c_char * 64), ("epoch", c.c_char * 40), ("peer", c.c_char * 72),
                ("fingerprint", c.c_char * 40), ("roles", c.c_char * 128), ("bulk_sealed", u32), ("reserved", u32)]


class baton_kv_pool_options(Struct):
    _fields_ = [("struct_size", u32), ("memory", u32), ("base", c.c_void_p), ("bytes", u64), ("buffer", c.c_void_p), ("fd_offset", u64), ("fd", i32),
                ("reserved", u32), ("layout", c.POINTER(baton_kv_layout)), ("model", c.c_char_p)]


class baton_kv_grant_options(Struct):
    _fields_ = [("struct_size", u32), ("reserved", u32), ("session", c.c_void_p), ("blocks", c.POINTER(i32)), ("block_count", u64), ("tokens", u64),
                ("held_tokens", u64), ("deadline_ns", u64), ("user", u64)]


class baton_kv_source(Struct):
    _fields_ = [("pool", c.c_void_p), ("blocks", c.POINTER(i32)), ("block_count", u64)]


class baton_kv_push_options(Struct):
    _fields_ = [("struct_size", u32), ("source_count", u32), ("sources", c.POINTER(baton_kv_source)), ("ticket", c.c_char_p), ("fabric", c.c_char_p),
                ("tokens", u64), ("deadline_ns", u64), ("user", u64), ("checksum", u32), ("reserved", u32), ("bulk", u32),
                ("reserved2", u32)]


class baton_kv_hold_options(Struct):
    _fields_ = [("struct_size", u32), ("source_count", u32), ("sources", c.POINTER(baton_kv_source)), ("fabric", c.c_char_p), ("tokens", u64),
                ("lease_ns", u64), ("extend_ns", u64), ("user", u64)]


class baton_kv_stats(Struct):
    _fields_ = [("struct_size", u32), ("reserved", u32), ("bytes", u64), ("segments", u64), ("layers", u64), ("fabric", c.c_char * 16),
                ("bulk", u32), ("reserved2", u32), ("rails", u32), ("reserved3", u32)]


class baton_kv_event(Struct):
    _fields_ = [("struct_size", u32), ("kind", u32), ("session", c.c_void_p), ("grant", c.c_void_p), ("push", c.c_void_p), ("user", u64), ("id", u64),
                ("layers", u64), ("tokens", u64), ("held_tokens", u64), ("text", c.c_char_p), ("bytes", c.c_void_p), ("byte_count", u64),
                ("error", c.POINTER(baton_error)), ("hold", c.c_void_p), ("lender", c.c_void_p), ("borrower", c.c_void_p), ("blocks", c.POINTER(i32)),
                ("block_count", u64)]


STRUCTS = [baton_kv_layout, baton_kv_identity, baton_kv_endpoint_options, baton_kv_connect_options, baton_kv_session_info, baton_kv_pool_options,
           baton_kv_grant_options, baton_kv_source, baton_kv_push_options, baton_kv_hold_options, baton_kv_stats, baton_kv_event]
MEMORY_HOST, MEMORY_FD, MEMORY_BUFFER = 1, 2, 3

_P, _E, _OUT, _B = c.c_void_p, c.POINTER(baton_error), c.POINTER(c.c_void_p), c.c_void_p
PROTOTYPES = {
    "baton_kv_layout_parse": (i32, [c.c_char_p, u64, c.POINTER(baton_kv_layout), _E]),
    "baton_kv_layout_text": (i32, [c.POINTER(baton_kv_layout), c.c_char_p, u64, c.POINTER(u64), _E]),
    "baton_kv_layout_facts": (i32, [c.POINTER(baton_kv_layout), c.POINTER(u64), c.POINTER(u64), _E]),
    "baton_kv_layout_compare": (i32, [c.POINTER(baton_kv_layout), c.POINTER(baton_kv_layout), _E]),
    "baton_kv_endpoint_open": (i32, [c.POINTER(baton_kv_endpoint_options), _OUT, _E]),
    "baton_kv_endpoint_close": (None, [_P]),
    "baton_kv_endpoint_address": (c.c_char_p, [_P]),
    "baton_kv_endpoint_fd": (c.c_int, [_P]),
    "baton_kv_key_new": (i32, [c.c_char_p, _E]),
    "baton_kv_identity_new": (i32, [c.c_char_p, c.POINTER(baton_kv_identity), _E]),
    "baton_kv_identity_read": (i32, [c.c_char_p, c.POINTER(baton_kv_identity), _E]),
    "baton_kv_endpoint_drop_unknown_peers": (u32, [_P]),
    "baton_kv_connect_to": (i32, [_P, c.c_char_p, c.POINTER(baton_kv_connect_options), u64, _OUT, _E]),
    "baton_kv_connect": (i32, [_P, c.c_char_p, u64, _OUT, _E]),
    "baton_kv_accept": (i32, [_P, u64, _OUT, _E]),
    "baton_kv_session_close": (None, [_P]),
    "baton_kv_session_read": (i32, [_P, c.POINTER(baton_kv_session_info), _E]),
    "baton_kv_notify": (i32, [_P, c.c_char_p, _B, u64, _E]),
    "baton_kv_register": (i32, [_P, c.POINTER(baton_kv_pool_options), _OUT, _E]),
    "baton_kv_renew": (i32, [_P, c.POINTER(i32), u64, _E]),
    "baton_kv_unregister": (None, [_P]),
    "baton_kv_grant_blocks": (i32, [_P, c.POINTER(baton_kv_grant_options), _OUT, _E]),
    "baton_kv_grant_ticket": (c.c_char_p, [_P]),
    "baton_kv_pull": (i32, [_P, _P, _B, u64, _E]),
    "baton_kv_pull_hold": (i32, [_P, c.c_char_p, _E]),
    "baton_kv_refuse": (i32, [_P, u64, _E, _E]),
    "baton_kv_grant_cancel": (None, [_P, _E]),
    "baton_kv_grant_intact": (i32, [_P, _E]),
    "baton_kv_grant_quiet": (u32, [_P]),
    "baton_kv_grant_release": (None, [_P]),
    "baton_kv_grant_stats": (i32, [_P, c.POINTER(baton_kv_stats), _E]),
    "baton_kv_push_begin": (i32, [_P, c.POINTER(baton_kv_push_options), _OUT, _E]),
    "baton_kv_push_open": (i32, [_P, c.POINTER(baton_kv_push_options), _OUT, _E]),
    "baton_kv_push_layers": (u32, [_P]),
    "baton_kv_push_layer": (i32, [_P, u32, u32, c.POINTER(_abi.baton_point), _E]),
    "baton_kv_push_all": (i32, [_P, _E]),
    "baton_kv_push_seal": (i32, [_P, _B, u64, _E]),
    "baton_kv_push_cancel": (None, [_P, _E]),
    "baton_kv_push_release": (None, [_P]),
    "baton_kv_push_stats": (i32, [_P, c.POINTER(baton_kv_stats), _E]),
    "baton_kv_link_cost": (i32, [c.c_char_p, u64, u64, c.POINTER(u64), _E]),
    "baton_kv_hold_blocks": (i32, [_P, c.POINTER(baton_kv_hold_options), _OUT, _E]),
    "baton_kv_hold_id": (c.c_char_p, [_P]),
    "baton_kv_hold_cancel": (None, [_P]),
    "baton_kv_hold_release": (None, [_P]),
    "baton_kv_track": (i32, [_P, c.c_char_p, _E]),
    "baton_kv_confirm": (None, [_P, c.c_char_p]),
    "baton_kv_untrack": (None, [_P, c.c_char_p]),
    "baton_kv_lender_open": (i32, [_P, _P, c.c_char_p, u64, _OUT, _E]),
    "baton_kv_lend": (i32, [_P, c.POINTER(i32), u64, u64, u64, c.POINTER(u64), _E]),
    "baton_kv_recall": (None, [_P, u64]),
    "baton_kv_lender_close": (None, [_P]),
    "baton_kv_borrower_open": (i32, [_P, c.POINTER(baton_kv_layout), c.c_char_p, c.c_char_p, _OUT, _E]),
    "baton_kv_borrower_memory": (i32, [_P, _OUT, c.POINTER(baton_kv_layout), _E]),
    "baton_kv_loan_check": (i32, [_P, u64, _E]),
    "baton_kv_loan_return": (None, [_P, u64]),
    "baton_kv_borrower_close": (None, [_P]),
    "baton_kv_poll": (u32, [_P, c.POINTER(baton_kv_event), u32]),
    "baton_kv_wait": (u32, [_P, c.POINTER(baton_kv_event), u32, u64]),
}

lib = _abi.load("libbaton-kv.so.0")
for _name, (_result, _arguments) in PROTOTYPES.items():
    _f = getattr(lib, _name)
    _f.restype, _f.argtypes = _result, _arguments
