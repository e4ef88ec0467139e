"""python/baton, on the host and on both emulators; every ctypes struct and prototype against the recorded table of the ABI.

baton_test.py SOURCE BUILD; BATON_LIBRARY names libbaton."""

import ctypes
import gc
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest

try:
    import numpy as np
except ImportError:
    print("no NumPy: skipped (./dev test installs python3-numpy)")
    sys.exit(77)

SOURCE, BUILD = (pathlib.Path(p) for p in sys.argv[1:3])
sys.path.insert(0, str(SOURCE / "python"))
import baton
from baton import _abi
from baton.program import Builder

DEVICES = ["host://", "emu+neuron://0", "emu+cs3://0"]
SOON = 20.0  # seconds; an end that only a broken test reaches


class Abi(unittest.TestCase):
    """What Python believes about baton.h is what was recorded of it."""

    SCALARS = {"uint8_t": _abi.u8, "uint16_t": _abi.u16, "uint32_t": _abi.u32, "uint64_t": _abi.u64, "int32_t": _abi.i32, "int64_t": _abi.i64,
               "int": ctypes.c_int, "void": None, "const char*": ctypes.c_char_p, "char*": ctypes.c_char_p}

    @classmethod
    def setUpClass(cls):
        cls.table = {}
        for line in (SOURCE / "tests/abi/v1.table").read_text().splitlines():
            if not line.startswith("#"):
                name, _, value = line.partition(": ")
                cls.table[name] = value

    @staticmethod
    def fields(struct, prefix="", base=0):
        for name, kind in struct._fields_:
            offset = base + getattr(struct, name).offset
            if issubclass(kind, (ctypes.Union, ctypes.Structure)) and kind.__name__.startswith("_"):
                yield from Abi.fields(kind, f"{prefix}{name}.", offset)
            else:
                yield prefix + name, offset, ctypes.sizeof(kind)

    def test_structs(self):
        structs = [s for s in _abi.Struct.__subclasses__()]
        self.assertGreater(len(structs), 7)
        for s in structs:
            recorded = {n.split(".", 1)[1]: re.match(r"offset (\d+) size (\d+)", v).groups()
                        for n, v in self.table.items() if n.startswith(f"field {s.__name__}.")}
            here = {n: (str(o), str(z)) for n, o, z in self.fields(s)}
            self.assertEqual(here, recorded, s.__name__)
        self.assertEqual(ctypes.sizeof(_abi.baton_op), 128)

    def test_codes_and_opcodes(self):
        codes = {n.split("BATON_")[1]: int(v) for n, v in self.table.items() if n.startswith("enum baton_code.")}
        self.assertEqual({c.name: c.value for c in baton.Code}, codes)
        for name, value in self.table.items():
            if name.startswith("enum baton_opcode."):
                self.assertEqual(getattr(_abi, name.split("BATON_")[1]), int(value))
        self.assertEqual(_abi.NO_DEADLINE, int(self.table["macro BATON_NO_DEADLINE"]))

    def kind(self, text):
        if text in self.SCALARS:
            return self.SCALARS[text]
        plain = text.replace("const ", "")
        for suffix, wrap in (("**", lambda k: ctypes.POINTER(ctypes.c_void_p)), ("*", ctypes.POINTER)):
            if plain.endswith(suffix):
                base = plain[:-len(suffix)]
                if suffix == "*" and (base == "void" or f"opaque {base}" in self.table):
                    return ctypes.c_void_p
                return wrap(self.SCALARS.get(base) or getattr(_abi, base, None))
        return {"baton_enumerate_fn": _abi.enumerate_fn, "baton_finding_fn": _abi.finding_fn}[text]

    def test_prototypes(self):
        for name, (result, arguments) in _abi.PROTOTYPES.items():
            want, _, params = self.table[f"function {name}"].rstrip(")").partition("(")
            self.assertEqual(self.kind(want), result, name)
            self.assertEqual([self.kind(p) for p in params.split(", ") if p != "void"], arguments, name)


class WithInstance(unittest.TestCase):
    def setUp(self):
        self.hal = baton.Instance()
        self.addCleanup(self.hal.close)

    def fails(self, code, call, *arguments, **named):
        with self.assertRaises(baton.Error) as caught:
            call(*arguments, **named)
        self.assertEqual(caught.exception.code, code, caught.exception)
        return caught.exception


class Memory(WithInstance):
    def test_fill_and_copy_on_every_device(self):
        host = self.hal.open("host://")
        for dev in map(self.hal.open, DEVICES):
            there, back, done = dev.alloc(1 << 16), host.alloc(1 << 16), self.hal.timeline("done")
            dev.queue().submit(baton.fill(there, 0x1234, 2).signal(done, 1), baton.fill(there, 9, offset=16, bytes=16).wait(done, 1).signal(done, 2))
            self.hal.link(dev, host).submit(baton.copy(there, back).wait(done, 2).signal(done, 3))
            done.wait(3, SOON)
            seen = np.asarray(back)
            self.assertEqual(bytes(seen[16:32]), b"\x09" * 16)
            self.assertTrue((seen.view(np.uint16)[16:] == 0x1234).all())
            self.assertEqual(dev.info().emulated, dev.info().driver != "host")
            self.assertGreater(dev.telemetry()["ops_done"], 0)

    def test_arrays_share_the_memory(self):
        buf = self.hal.open("host://").alloc(64)
        a, b = np.asarray(buf), buf.array(np.float32, (4, 4))
        b[:] = np.arange(16).reshape(4, 4)
        self.assertEqual(a.view(np.float32)[5], 5.0)
        self.assertEqual(buf.view()[4:8], np.float32(1).tobytes())
        self.assertRaises(BufferError, buf.close)
        self.assertRaises(BufferError, self.hal.close)
        del a, b
        buf.close()
        self.assertRaises(ValueError, buf.view)

    def test_an_array_outlives_the_name_of_its_buffer(self):
        a = np.asarray(self.hal.open("host://").alloc(1 << 20))
        a[:] = 3
        self.assertEqual(int(a.sum()), 3 << 20)
        del a

    def test_what_is_not_mappable_says_so(self):
        e = self.fails(baton.Code.UNSUPPORTED, self.hal.open("emu+cs3://0").alloc(64).view)
        self.assertIn("host://", e.next)

    def test_export_and_import(self):
        dev = self.hal.open("host://")
        buf = dev.alloc(4096)
        fd, offset = buf.export()
        again = dev.import_fd(fd, offset, 4096)
        os.close(fd)
        np.asarray(buf)[7] = 42
        self.assertEqual(again.view()[7], 42)


class Launch(WithInstance):
    @staticmethod
    def project(act):
        p = Builder("project", max_tokens=8, args=["tokens"])
        x = p.value("x", "f32", "input", ["tokens", 64])
        y = p.value("y", "f32", "output", ["tokens", 32])
        p.op("matmul", [x, p.value("w", "bf16", "constant", [32, 64])], [y], act=act)
        p.op("mark", [], [])
        return p

    def test_a_matmul_is_what_numpy_says(self):
        rng = np.random.default_rng(7)
        x = rng.standard_normal((5, 64), np.float32)
        w = (rng.standard_normal((32, 64), np.float32).view(np.uint32) >> 16).astype(np.uint16)  # bf16 by its bits
        expected = x @ (w.astype(np.uint32) << 16).view(np.float32).T
        host = self.hal.open("host://")
        bytes_of_program = self.project("f32").serialize()
        for dev in map(self.hal.open, DEVICES):
            staging, xs, ys = host.alloc(8 * 64 * 4), dev.alloc(8 * 64 * 4), dev.alloc(8 * 32 * 4)
            staging.array(np.float32, (5, 64))[:] = x
            done, marks = self.hal.timeline("done"), self.hal.timeline("marks")
            program = dev.load(bytes_of_program, {"w": w})
            to, back, q = self.hal.link(host, dev), self.hal.link(dev, host), dev.queue()
            to.submit(baton.copy(staging, xs, 5 * 64 * 4).signal(done, 1))
            q.submit(baton.launch(program, {"x": (xs, 0, 5 * 64 * 4), "y": (ys, 0, 5 * 32 * 4)}, [5]).wait(done, 1).signal(done, 2).progress(marks, 10))
            back.submit(baton.copy(ys, staging, 5 * 32 * 4).wait(done, 2).signal(done, 3))
            done.wait(3, SOON)
            np.testing.assert_allclose(staging.array(np.float32, (5, 32)), expected, rtol=1e-4, atol=1e-4)
            self.assertEqual(marks.value, 11)

    def test_a_wrong_program_names_what_is_wrong(self):
        p = self.project("f32")
        p.op("add", ["x", "nothing"], ["y"])
        self.assertIn("nothing", self.fails(baton.Code.INVALID_ARGUMENT, p.serialize).what)
        p = self.project("f64")
        self.assertIn("f64", self.fails(baton.Code.INVALID_ARGUMENT, p.serialize).what)
        p = self.project("f32")
        p.json["values"][0]["colour"] = 1
        self.assertIn("colour", self.fails(baton.Code.INVALID_ARGUMENT, p.serialize).what)
        p = self.project("f32")
        p.json["values"][0]["shape"] = ["tokens", 63]  # verify: K of x and w differ
        self.fails(baton.Code.INVALID_ARGUMENT, p.serialize)
        host = self.hal.open("host://")
        self.fails(baton.Code.CORRUPT, host.load, b"x" * 64)
        self.assertIn("'w'", self.fails(baton.Code.INVALID_ARGUMENT, host.load, self.project("f32").serialize()).what)

    def test_what_a_device_finds_later_poisons(self):
        host = self.hal.open("host://")
        program = host.load(self.project("bf16").serialize(), {"w": np.zeros((32, 64), np.uint16)})
        done = self.hal.timeline("done")
        host.queue().submit(baton.launch(program, {"z": host.alloc(64)}, [1]).signal(done, 1))
        e = self.fails(baton.Code.INVALID_ARGUMENT, done.wait, 1, SOON)
        self.assertIn("host://", e.hop)


class Timelines(WithInstance):
    def test_errors_carry_code_text_and_next_step(self):
        e = self.fails(baton.Code.NOT_FOUND, self.hal.open, "nothing://0")
        self.assertTrue(e.next and "nothing" in e.what and "NOT_FOUND" in str(e))
        q, buf = self.hal.open("host://").queue(), self.hal.open("host://").alloc(64)
        self.assertIn("64", self.fails(baton.Code.INVALID_ARGUMENT, q.submit, baton.fill(buf, bytes=65)).what)

    def test_deadline_poison_and_modelled_time(self):
        t = self.hal.timeline("late")
        self.fails(baton.Code.DEADLINE, t.wait, 1, 0.0)
        began = time.monotonic()
        self.fails(baton.Code.DEADLINE, t.wait, 1, 0.12)
        self.assertGreaterEqual(time.monotonic() - began, 0.12)
        t.signal(5, 900)
        t.wait(5)
        self.assertEqual((t.value, t.modelled_ns(5)), (5, 900))
        t.poison("too late", baton.Code.DEADLINE, "ask earlier")
        self.assertEqual(self.fails(baton.Code.DEADLINE, t.wait, 6).what, "too late")  # no timeout: it must not go on for ever
        self.fails(baton.Code.DEADLINE, lambda: t.value)
        other = self.hal.timeline()
        other.poison()
        self.fails(baton.Code.CANCELLED, other.wait, 1)

    def test_other_threads_run_while_one_waits(self):
        t, ready = self.hal.timeline("t"), threading.Event()
        results = []

        def waiter(value):
            ready.set()
            t.wait(value, SOON)
            results.append(value)

        threads = [threading.Thread(target=waiter, args=(v,)) for v in (1, 2, 3)]
        for thread in threads:
            thread.start()
        self.assertTrue(ready.wait(SOON))
        for value in (1, 2, 3):  # runs only if those waits let go of the interpreter
            t.signal(value)
        for thread in threads:
            thread.join(SOON)
        self.assertEqual(sorted(results), [1, 2, 3])

    def test_ctrl_c_ends_a_wait(self):
        timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with self.assertRaises(KeyboardInterrupt):
            self.hal.timeline("never").wait(1, SOON)
        timer.join()

    def test_host_ops_call_python(self):
        q, done, calls = self.hal.open("host://").queue(), self.hal.timeline("done"), []
        q.submit(baton.host(lambda: calls.append(1)).signal(done, 1), baton.host(lambda: 1 // 0).wait(done, 1).signal(done, 2),
                 baton.host(lambda: calls.append(2)).wait(done, 2).signal(done, 3))
        seen, sys.unraisablehook = [], lambda u: seen.append(u.exc_type)
        self.addCleanup(setattr, sys, "unraisablehook", sys.__unraisablehook__)
        done.wait(3, SOON)
        self.assertEqual((calls, seen), ([1, 2], [ZeroDivisionError]))
        self.assertEqual(self.hal._functions, {})

    def test_poll_and_descriptor(self):
        q, done = self.hal.open("host://").queue(), self.hal.timeline("done")
        self.assertGreaterEqual(self.hal.fileno(), 0)
        q.submit(baton.nop().signal(done, 1))
        end = time.monotonic() + SOON
        while done.value < 1 and time.monotonic() < end:
            self.hal.poll()
        self.assertEqual(done.value, 1)

    def test_an_op_has_two_points(self):
        op, t = baton.nop(), self.hal.timeline()
        op.wait(t, 1).wait(t, 2)
        self.assertRaises(ValueError, op.wait, t, 3)


class Life(unittest.TestCase):
    def test_closing_an_instance_closes_all_in_order(self):
        with baton.Instance() as hal:
            dev = hal.open("host://")
            things = [dev, dev.alloc(64), dev.queue(), hal.timeline()]
            things[2].submit(baton.fill(things[1]).wait(things[3], 1))  # in flight for ever
        self.assertTrue(all(t.closed for t in things))
        self.assertRaises(ValueError, dev.info)
        self.assertRaises(ValueError, hal.open, "host://")
        hal.close()

    def test_rounds_leave_no_descriptor(self):
        def once():
            hal = baton.Instance()
            dev = hal.open("host://")
            done = hal.timeline()
            dev.queue().submit(baton.fill(dev.alloc(64)).signal(done, 1))
            done.wait(1, SOON)

        once()
        gc.collect()
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            once()
        gc.collect()
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)

    def test_findings(self):
        found = []
        with baton.Instance(layers="validate") as hal:
            hal.on_finding(found.append)
            dev, done = hal.open("host://"), hal.timeline("done")
            q, a, b = dev.queue(), dev.alloc(64), dev.alloc(64)
            q.submit(baton.copy(a, b).tagged(7).signal(done, 1))
            done.wait(1, SOON)
        self.assertEqual([(f.code, f.blame, f.misuse) for f in found], [("read-before-write", "caller", True)])
        self.assertIn("COPY (tag 7) on 'host:// lane 0' reads bytes 0..64", found[0].what)
        self.assertNotEqual(found[0].next, "")
        with baton.Instance(layers="") as hal:
            with self.assertRaises(baton.Error) as caught:
                hal.on_finding(found.append)
            self.assertEqual(caught.exception.code, baton.Code.UNSUPPORTED)

    def test_enumerate_and_plan(self):
        with baton.Instance() as hal:
            self.assertIn("host", [i.driver for i in hal.enumerate()])
            dev = hal.open("host://a")
            self.assertIn("memcpy", hal.plan_copy(dev, hal.open("host://b")))
            self.assertRegex(baton.version(), r"^\d+\.\d+\.\d+$")

    def test_an_installed_package_finds_the_library_beside_it(self):
        with tempfile.TemporaryDirectory() as prefix:
            lib = pathlib.Path(prefix, "lib")
            shutil.copytree(SOURCE / "python/baton", lib / "python3/dist-packages/baton")
            for name in ("libbaton.so.0", "libbaton-program.so.0"):
                (lib / name).symlink_to(BUILD / "lib" / name)
            env = {k: v for k, v in os.environ.items() if k not in ("BATON_LIBRARY", "LD_LIBRARY_PATH")}
            env["PYTHONPATH"] = str(lib / "python3/dist-packages")
            code = ("import baton, baton.program; baton.Instance().open('host://'); baton.program.Builder('empty').serialize(); "
                    "print(baton._abi.lib._name)")
            run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
            self.assertEqual((run.returncode, run.stdout.strip()), (0, str(lib / "libbaton.so.0")), run.stderr)
            env["BATON_LIBRARY"] = "/nowhere/libbaton.so.0"
            run = subprocess.run([sys.executable, "-c", "import baton"], env=env, capture_output=True, text=True, timeout=60)
            self.assertIn("next: set BATON_LIBRARY", run.stderr)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
