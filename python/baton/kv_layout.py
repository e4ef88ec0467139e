"""How a pool keeps a KV-cache: baton.kv.Layout; what the C functions of layouts in transport/baton_kv.h say, and NumPy views."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
from typing import Any

from . import _kv_abi
from .errors import Code, Error, call, text

DTYPES = ["", "f32", "bf16", "f16", "i32", "f8e4m3", "f8e5m2"]
NUMPY = {"f32": "float32", "bf16": "uint16", "f16": "float16", "i32": "int32", "f8e4m3": "uint8", "f8e5m2": "uint8"}  # bits, where NumPy has no such number
ORDERS = ["", "token_major", "head_major", "block_major"]
PAIRINGS = ["", "apart", "block", "token", "latent"]
SCALES = ["none", "block_head"]

kv_call = functools.partial(call, lib=_kv_abi.lib)


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

    def c(self) -> _kv_abi.baton_kv_layout:
        """As the C struct."""
        for value, names in ((self.dtype, DTYPES), (self.order, ORDERS), (self.pairing, PAIRINGS), (self.scales, SCALES)):
            if value not in names:
                raise ValueError(f"{value!r} is none of {', '.join(n for n in names if n)}")
        h, held = self.heads or (0, self.kv_heads), self.held_layers or (0, 0)
        return _kv_abi.baton_kv_layout(layers=self.layers, kv_heads=self.kv_heads, head_dim=self.head_dim, dtype=DTYPES.index(self.dtype),
                                       order=ORDERS.index(self.order), pairing=PAIRINGS.index(self.pairing), block_tokens=self.block_tokens,
                                       blocks=self.blocks, head_begin=h[0], head_count=h[1] - h[0], layer_begin=held[0], layer_count=held[1] - held[0],
                                       rope_dim=self.rope_dim, scales=SCALES.index(self.scales))

    @staticmethod
    def parse(line: str) -> Layout:
        """From str(layout), or a JSON object with the same names."""
        l = _kv_abi.baton_kv_layout()
        data = line.encode()
        kv_call("baton_kv_layout_parse", data, len(data), l)
        return Layout.of(l)

    @staticmethod
    def of(l: _kv_abi.baton_kv_layout) -> Layout:
        """From the C struct."""
        whole = l.head_begin == 0 and l.head_count == l.kv_heads
        return Layout(l.layers, l.kv_heads, l.head_dim, l.blocks, DTYPES[l.dtype], ORDERS[l.order], PAIRINGS[l.pairing], l.block_tokens,
                      None if whole else (l.head_begin, l.head_begin + l.head_count),
                      (l.layer_begin, l.layer_begin + l.layer_count) if l.layer_count else None, l.rope_dim, SCALES[l.scales])

    def __str__(self) -> str:
        out = ctypes.create_string_buffer(512)
        kv_call("baton_kv_layout_text", self.c(), out, len(out), None)
        return text(out.value)

    def _facts(self) -> tuple[int, int]:
        h, n = ctypes.c_uint64(), ctypes.c_uint64()
        kv_call("baton_kv_layout_facts", self.c(), h, n)
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
            kv_call("baton_kv_layout_compare", self.c(), target.c())
        except Error as e:
            if e.code == Code.MISMATCH:
                return e.what
            raise
        return None

    @property
    def numpy_dtype(self) -> str:
        """The NumPy dtype of an element; uint16 and uint8 are the bits of bf16 and FP8."""
        return NUMPY[self.dtype]

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
