#!/usr/bin/env python3
"""The table of ABI facts: today's header and library keep it, the frozen header is the one it was made of, and abi.py sees each way to
break it. Run by ctest: abi_test.py SOURCE_FOLDER LIBRARY CALLER CC."""
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import abi  # noqa: E402

SOURCE, LIBRARY, CALLER, CC = sys.argv[1:5]
HEADER = SOURCE + "/hal/baton.h"
FROZEN = SOURCE + "/tests/abi/v1/baton_v1.h"
THEN = abi.read_table(SOURCE + "/tests/abi/v1.table")
THEN_SYMBOLS = {k: v for k, v in THEN.items() if k.startswith("symbol ")}


def facts_of(text):
    with tempfile.NamedTemporaryFile("w", suffix=".h") as f:
        f.write(text)
        f.flush()
        return abi.facts(f.name, None, CC)


class Kept(unittest.TestCase):
    def test_the_header_and_the_library_keep_what_was_recorded(self):
        now = abi.facts(HEADER, LIBRARY, CC)
        self.assertEqual(abi.compare(THEN, now), [])
        self.assertEqual(abi.exports(now), [])

    def test_the_frozen_header_is_the_one_that_was_recorded(self):
        recorded = {k: v for k, v in THEN.items() if not k.startswith("symbol ")}
        now = abi.facts(FROZEN, None, CC)
        self.assertEqual({k: recorded.get(k) for k in now}, now)

    def test_the_frozen_caller_calls_every_function_of_its_version(self):
        used = set(re.findall(r" U (baton_\w+)", subprocess.run(["nm", "-D", CALLER], capture_output=True, text=True, check=True).stdout))
        self.assertEqual({k.split()[1] for k in abi.facts(FROZEN, None, CC) if k.startswith("function ")} - used, set())


class Broken(unittest.TestCase):
    """Changes of the frozen header, by a pattern, and what abi.py says of each. Each list is one header: compiling takes longest."""
    BROKEN = [[
        (r"(uint32_t lanes;)", r"uint32_t kind; \1", "field baton_device_info.lanes: was offset 432"),  # in the middle
        (r"  uint64_t epoch;\n  char device", "  char device", "field baton_error.epoch is gone"),
        (r"(uint32_t exportable;)", r"\1 uint64_t speed;", "baton_heap_info has no struct_size and must not change"),
        (r"(uint64_t bytes;)\n\} baton_span", r"\1 uint64_t more;\n} baton_span", "struct baton_span: was size 64"),
        (r"BATON_DEADLINE = 9", "BATON_DEADLINE = 19", "enum baton_code.BATON_DEADLINE: was 9, is 19"),
        (r"(BATON_OK = 0,)", r"\1 BATON_ODD = -5,", "BATON_ODD = -5 is new: it must be above 16"),
        (r"BATON_OP_FILL = 3,", "", "enum baton_opcode.BATON_OP_FILL is gone"),
        (r"#define BATON_MAX_HEAPS 16", "#define BATON_MAX_HEAPS 32", "macro BATON_MAX_HEAPS: was 16, is 32"),
        (r"(      void\* user;\n    \} host;)", r"\1 struct { uint64_t x[6]; } later;", "struct baton_op: was size 128"),
        (r"baton_poll\(baton_instance\*, uint32_t budget\)", "baton_poll(baton_instance*, uint64_t budget)", "function baton_poll: was"),
        (r"BATON_API void baton_close.*\n", "", "function baton_close is gone"),
        (r"  uint32_t \(\*poll\)\(", "  void (*trim)(void* device);\n  uint32_t (*poll)(", "field baton_driver.poll: was offset 152"),
    ], [
        (r"char what\[320\]", "char what[256]", "field baton_error.what: was offset 176 size 320"),
        (r"int32_t code;\n  uint64", "uint32_t code;\n  uint64", "field baton_error.code: was offset 4 size 4 int32_t"),  # the same size
        (r"(char driver\[32\];)", r"char driver[32]; char more[8];", "field baton_device_info.firmware: was offset 264"),
        (r"uint64_t src_offset, dst_offset, bytes;", "uint64_t dst_offset, src_offset, bytes;", "field baton_op.u.copy.src_offset: was offset 88"),
        (r"void \(\*free\)\(void\* device, void\* mem\)", "int32_t (*free)(void* device, void* mem)", "field baton_driver.free: was"),
        (r"typedef void \(\*baton_host_fn\)\(void\* user\)", "typedef int (*baton_host_fn)(void* user)", "type baton_host_fn: was void(void*)"),
        (r"uint64_t busy_ns;\n  uint64_t modelled_ns;", "uint64_t modelled_ns;", "struct baton_telemetry: was size 64"),
    ]]
    ALLOWED = [
        (r"(char timing\[96\];)", r"\1 uint64_t born_ns;", "field baton_device_info.born_ns"),
        (r"(void\* core_device;)", r"\1 uint32_t (*hint)(void*);", "field baton_driver_host.hint"),
        (r"(BATON_INTERNAL = 16,)", r"\1 BATON_QUOTA = 17,", "enum baton_code.BATON_QUOTA"),
        (r"(      void\* user;\n    \} host;)", r"\1 struct { uint64_t x[5]; } later;", "field baton_op.u.later.x"),
        (r"baton_poll\(baton_instance\*, uint32_t budget\)", "baton_poll(baton_instance*, uint32_t most)", None),  # a parameter's name
        (r"(BATON_API void baton_close)", r"BATON_API void baton_more(baton_device*);\n\1", "function baton_more"),
        (r"(uint32_t \(\*poll\)\([^;]*;)", r"\1\n  void (*trim)(void* device);", "field baton_driver.trim"),
    ]

    def changed(self, changes):
        text = pathlib.Path(FROZEN).read_text().replace('_Static_assert(sizeof(baton_op) == 128, "baton_op is 128 bytes");', "")
        for pattern, to, _ in changes:
            text, n = re.subn(pattern, to, text, count=1)
            self.assertEqual(n, 1, pattern)
        return facts_of(text)

    def test_what_breaks(self):
        for changes in self.BROKEN:
            breaks = abi.compare(THEN, {**THEN_SYMBOLS, **self.changed(changes)})
            for _, to, expected in changes:
                self.assertTrue(any(expected in b for b in breaks), (to, breaks))

    def test_what_may_grow(self):
        now = {**THEN_SYMBOLS, **self.changed(self.ALLOWED)}
        frozen = abi.facts(FROZEN, None, CC)  # the table has grown since
        then = {k: v for k, v in THEN.items() if k in frozen or k.startswith("symbol ")}
        self.assertEqual(abi.compare(then, now), [])
        self.assertEqual({k for k in now if k not in then}, {key for _, _, key in self.ALLOWED if key})

    def test_what_the_parser_does_not_understand(self):
        with self.assertRaises(AssertionError):
            self.changed([(r"typedef struct baton_queue baton_queue;", "typedef struct baton_queue { int x; } baton_queue;", "")])

    def test_a_field_in_the_padding_of_an_older_caller(self):
        then = {"struct s": "size 24 align 8 grows", "field s.struct_size": "offset 0 size 4 uint32_t"}
        now = {**then, "field s.late": "offset 20 size 4 uint32_t"}
        self.assertIn("an older caller's struct_size covers", abi.compare(then, now)[0])

    def test_symbols(self):
        then = {"symbol baton_a": "BATON_0.1", "function baton_a": "void(void)"}
        self.assertIn("was BATON_0.1, is BATON_0.2", abi.compare(then, {**then, "symbol baton_a": "BATON_0.2"})[0])
        self.assertIn("is gone", abi.compare(then, {"function baton_a": "void(void)"})[0])
        self.assertIn("does not export", abi.exports({"function baton_a": "void(void)"})[0])
        self.assertIn("does not declare", abi.exports({"symbol baton_b": "BATON_0.1"})[0])


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=1)
