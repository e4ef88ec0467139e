"""The bridge (drivers/cs3/bridge) between libbaton's cs3 driver and a stand-in SdkRuntime over the emulated wafer; and its parts alone.

bridge_test.py SOURCE BUILD; BATON_LIBRARY names libbaton."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import unittest

try:
    import numpy as np
except ImportError:
    print("no NumPy: skipped (./dev test installs python3-numpy)")
    sys.exit(77)

SOURCE, BUILD = (pathlib.Path(p).resolve() for p in sys.argv[1:3])
HERE, BRIDGE = SOURCE / "tests/python/cs3", SOURCE / "drivers/cs3/bridge"
sys.path[:0] = [str(SOURCE / "python"), str(BRIDGE), str(HERE)]
import baton  # noqa: E402
import link  # noqa: E402
import memory  # noqa: E402
import standin_compiler  # noqa: E402
import standin_sdk  # noqa: E402
from baton.program import Builder  # noqa: E402
from wafer_client import Client, Failed  # noqa: E402

SOON = 60.0  # seconds; an end that only a broken test reaches


class Process:
    """A program whose first line of output is its address."""

    def __init__(self, *command, **env):
        self.p = subprocess.Popen([str(c) for c in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **env})
        self.uri = self.p.stdout.readline().strip()
        host, _, port = self.uri.removeprefix("cs3://").rpartition(":")
        self.address = host, int(port)

    def end(self):
        self.p.kill()
        self.p.wait()
        self.p.stdin.close()
        self.p.stdout.close()


class Bridged(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.wafer = self.process(BUILD / "lib/baton/baton-emu-cs3", "--listen", "127.0.0.1:0")
        self.bridge = self.start_bridge()

    def start_bridge(self, *options):
        return self.process(sys.executable, BRIDGE / "baton_cs3_bridge.py", "--listen", "127.0.0.1:0", "--cmaddr", "%s:%d" % self.wafer.address,
                            "--artifacts", self.folder, "--sdk", "standin_sdk", *options, PYTHONPATH=str(HERE), PYTHONDONTWRITEBYTECODE="1")

    def process(self, *command, **env):
        p = Process(*command, **env)
        self.addCleanup(p.end)
        return p

    def client(self, **kwargs):
        c = Client(*self.bridge.address, **kwargs)
        self.addCleanup(c.close)
        return c

    def fails(self, code, call, *args, **kwargs):
        with self.assertRaises(Failed) as caught:
            call(*args, **kwargs)
        self.assertEqual(caught.exception.code, code, caught.exception)
        return str(caught.exception)


def doubling():
    p = Builder("double")
    x = p.value("x", "f32", "input", [1, 300])
    y = p.value("y", "f32", "output", [1, 300])
    p.op("add", [x, x], [y])
    return p.serialize()


class Driver(Bridged):
    """Through libbaton, as a user has it."""

    def test_a_program_runs_as_on_the_host(self):
        with baton.Instance() as hal:
            device = hal.open(self.bridge.uri)
            self.assertEqual(device.info().model, "CS-3")
            program = doubling()
            with self.assertRaises(baton.Error) as unknown:
                device.load(program, {})
            digest = hashlib.sha256(program).hexdigest()
            self.assertEqual(unknown.exception.code, baton.Code.NOT_FOUND)
            self.assertIn(digest[:16], str(unknown.exception))
            self.assertEqual((self.folder / digest / "program.btnp").read_bytes(), program, "left for the compiler")
            standin_compiler.compile_program(program, self.folder)
            loaded = device.load(program, {})
            host, x, y = hal.open("host://"), device.alloc(1200), device.alloc(1200)
            there, back = host.alloc(1200), host.alloc(1200)
            values = np.arange(300, dtype=np.float32)
            there.view()[:] = values.tobytes()
            done, queue = hal.timeline("done"), device.queue()
            hal.link(host, device).submit(baton.copy(there, x).signal(done, 1))
            queue.submit(baton.launch(loaded, {"x": x, "y": y}, []).wait(done, 1).signal(done, 2), baton.launch(loaded, {"x": y, "y": x}, []).wait(done, 2).signal(done, 3))
            hal.link(device, host).submit(baton.copy(x, back).wait(done, 3).signal(done, 4))
            done.wait(4, SOON)
            self.assertEqual(bytes(back.view()), (values * 4).tobytes(), "twice, the second time with the buffers exchanged")
            with self.assertRaises(baton.Error) as second:
                device.load(program, {})
            self.assertEqual(second.exception.code, baton.Code.CAPACITY, "SdkRuntime takes one program")
            loaded.close()
            device.load(program, {}).close()

    def launches(self):
        watch = Client(*self.wafer.address)
        self.addCleanup(watch.close)
        return link.Telemetry.unpack(watch.call("telemetry", room=link.Telemetry.size())[1]).launches

    def generate(self, decode):
        command = [BUILD / "bin/baton", "generate", "--prefill", "host://", "--decode", decode, "--max-tokens", "16", "--context", "64", "--blocks", "8",
                   "--model", SOURCE / "models/baton-tiny", "Once upon a time"]
        return subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=SOON)

    def test_the_tiny_model_decodes_with_the_hosts_bits(self):
        want = self.generate("host://")
        self.assertEqual(want.returncode, 0, want.stderr)
        self.assertGreater(len(want.stdout.split()), 5)
        unknown = self.generate(self.bridge.uri)
        self.assertNotEqual(unknown.returncode, 0)
        self.assertIn("no compiled artifact", unknown.stderr)
        left = list(self.folder.glob("*/program.btnp"))
        self.assertEqual(len(left), 1, "the one program of the decode side")
        standin_compiler.compile_program(left[0].read_bytes(), self.folder)
        before = self.launches()
        got = self.generate(self.bridge.uri)
        self.assertEqual(got.returncode, 0, got.stderr)
        self.assertGreater(self.launches(), before, "it ran on the wafer")
        self.assertEqual(got.stdout, want.stdout)


class Lifecycle(Bridged):
    def artifact(self):
        place = standin_compiler.compile_program(doubling(), self.folder)
        out = json.loads((place / "out/standin.json").read_text())
        out["ports"] = {"rx": ["x", 3, 0, 0], "tx": ["x", 3, 0, 1]}
        (place / "out/standin.json").write_text(json.dumps(out))
        (place / "out").rename(self.folder / "double")
        return "double"

    def test_order_is_as_sdkruntimes(self):
        c = self.client()
        self.assertIn("load() has not been called", self.fails(link.INVALID_ARGUMENT, c.call, "run"))
        self.assertIn("SdkRuntime must be running", self.fails(link.INVALID_ARGUMENT, c.call, "nop"))
        self.assertIn("no artifact 'none'", self.fails(link.NOT_FOUND, c.call, "load", b"none"))
        self.assertIn("not an artifact's name", self.fails(link.INVALID_ARGUMENT, c.call, "load", b"../double"))
        c.call("load")
        self.assertIn("load comes twice", self.fails(link.INVALID_ARGUMENT, c.call, "load"))
        c.call("run")
        c.call("nop")
        self.assertIn("Cannot call run() multiple times", self.fails(link.INVALID_ARGUMENT, c.call, "run"))
        self.assertIn("no program is loaded", self.fails(link.INVALID_ARGUMENT, c.call, "get_id", b"x"))
        self.fails(link.UNSUPPORTED, c.call, "fault", b"{}", arg0=1)
        c.call("stop")
        self.fails(link.INVALID_ARGUMENT, c.call, "nop")

    def test_a_kernel_that_never_unblocks_ends_the_bridge(self):
        standin_compiler.compile_program(doubling(), self.folder)
        watch = Client(*self.wafer.address)
        self.addCleanup(watch.close)
        watch.call("fault", b'{"rules": [{"call": "launch", "action": "hang"}]}', arg0=1)
        bridge = self.start_bridge("--grace", "0.2")
        c = Client(*bridge.address)
        c.call("load"), c.call("run")
        program = doubling()
        handle = c.call("load_begin", bytes=len(program))[0].handle
        c.call("load_program", program, program=handle)
        c.call("load_finish", program=handle)
        x, y = (c.call("alloc", bytes=1200)[0] for _ in range(2))
        table = link.LaunchHead(bindings=2).pack()
        table += b"".join(link.LaunchBinding(name=n, mem=b.handle, address=b.address, bytes=1200).pack() for n, b in ((b"x", x), (b"y", y)))
        hung, behind = c.send("launch", table, program=handle), c.send("nop")
        self.assertEqual(c.call("info", room=448)[0].code, 0, "what touches the bridge alone is answered")
        c.call("cancel", arg0=behind)
        self.assertFalse(c.is_done(hung))
        until = time.monotonic() + SOON
        while not any(r["fired"] for r in json.loads(watch.call("fault", room=4096)[1])["rules"]):  # a launch that has not begun would be cancelled
            self.assertLess(time.monotonic(), until)
            time.sleep(0.01)
        c.close()
        self.assertEqual(bridge.p.wait(SOON), 7)

    def test_rectangles_and_ports_pass_through(self):
        name = self.artifact()
        c = self.client()
        c.call("load", name.encode())
        c.call("run")
        x = c.call("get_id", b"x")[0].handle
        self.assertIn("no symbol 'z'", self.fails(link.NOT_FOUND, c.call, "get_id", b"z"))
        place = {"symbol": x, "x": 2, "y": 0, "w": 3, "h": 2, "elements_per_pe": 1}
        rng = np.random.default_rng(5)
        for order in (0, 1):
            for bits in (16, 32):
                tensor = rng.integers(0, 256, 6 * bits // 8, dtype=np.uint8).tobytes()
                for t in c.transfer("memcpy_h2d", tensor, order=order, element_bits=bits, **place):
                    c.wait(t)
                for back in (0, 1):
                    got = b"".join(c.wait(t)[1] for t in c.transfer("memcpy_d2h", len(tensor), order=back, element_bits=bits, **place))
                    shape = np.frombuffer(tensor, np.uint16 if bits == 16 else np.uint32).reshape((2, 3), order="F" if order else "C")
                    self.assertEqual(got, shape.tobytes(order="F" if back else "C"))
        for t in c.transfer("memcpy_h2d", np.array([7, 9], np.uint32).tobytes(), order=0, flags=link.ALONG_ROWS, **place):
            c.wait(t)
        got = b"".join(c.wait(t)[1] for t in c.transfer("memcpy_d2h", 24, order=0, **place))
        self.assertEqual(list(np.frombuffer(got, np.uint32)), [7, 7, 7, 9, 9, 9])
        for t in c.transfer("memcpy_h2d", np.array([1, 2], np.uint32).tobytes(), order=0, row_stride=2, col_stride=5, **place):
            c.wait(t)
        got = b"".join(c.wait(t)[1] for t in c.transfer("memcpy_d2h", 24, order=0, **place))
        self.assertEqual(list(np.frombuffer(got, np.uint32)), [1, 7, 2, 9, 9, 9])
        self.assertIn("outside", self.fails(link.FAILED, c.wait, c.transfer("memcpy_d2h", 24, order=0, **{**place, "x": 127})[0]))
        rx, tx = (c.call("get_id", n)[0].handle for n in (b"rx", b"tx"))
        self.assertIn("even number of wavelets", self.fails(link.INVALID_ARGUMENT, c.wait, c.transfer("send", bytes(4), symbol=rx)[0]))
        self.assertTrue(tx)

    def test_one_client_has_the_system(self):
        first = self.client()
        first.call("info", room=448)
        self.assertIn("a job owns it alone", self.fails(link.BUSY, Client, *self.bridge.address))
        skew = self.fails(link.VERSION, Client, *self.bridge.address, major=2)
        self.assertIn("the client speaks wafer link 2.1, this side 1.1", skew)

    def patient_client(self):
        """The one before may still be leaving."""
        end = time.monotonic() + SOON
        while True:
            try:
                return self.client()
            except Failed:
                self.assertLess(time.monotonic(), end, "the system stays taken")
                time.sleep(0.005)

    def test_what_cannot_be_ends_the_connection_not_the_bridge(self):
        rng = np.random.default_rng(11)
        begin, answered, bugs = time.monotonic(), 0, []
        for round in range(40):
            c = self.patient_client()
            noise = rng.integers(0, 256, 128 * 4, dtype=np.uint8).tobytes()
            try:
                if round % 2:
                    tasks = [c.send("load"), c.send("run"), c.send("alloc", bytes=64), c.send("load_begin", bytes=16)]
                    for _ in range(12):
                        op = list(link.NUMBER)[rng.integers(len(link.NUMBER))]
                        if op in ("stop", "reset"):
                            continue
                        payload = noise[:rng.integers(64)]
                        sizes = {"bytes": len(payload), "total": len(payload)} if op in link.TRANSFERS else {"bytes": int(rng.integers(70))}
                        fields = {f: int(rng.integers(3)) for f in ("mem", "program", "symbol", "w", "h", "address", "src_mem", "src_address")}
                        tasks.append(c.send(op, payload, arg0=int(rng.integers(2**63)), arg1=1 << int(rng.integers(3)), **sizes, **fields))
                    for t in tasks:
                        try:
                            c.wait(t)
                        except Failed as e:
                            if e.code == link.INTERNAL:
                                bugs.append(str(e))
                        answered += 1
                c.wire.write(noise)
            except link.Gone:
                pass
            c.close()
        self.assertLess(time.monotonic() - begin, SOON, "a command was not answered")
        self.assertGreater(answered, 100)
        self.assertEqual(bugs, [])
        last = self.patient_client()
        last.call("load")
        last.call("run")
        last.call("nop")


class Memory(unittest.TestCase):
    """Where the newest copy of a byte is, against a model that has one copy."""

    class Layout:
        def __init__(self, name, written):
            self.name, self.written = name, written

    def test_random_use_against_one_copy(self):
        rng = np.random.default_rng(3)
        on_wafer, moved = {}, {"pull": 0, "push": 0}

        def pull(layout, count):
            moved["pull"] += 1
            return on_wafer[layout.name][:count].copy()

        def push(layout, data):
            moved["push"] += 1
            on_wafer[layout.name] = data.copy()

        m = memory.Memory(1 << 30, pull, push)
        h, base = m.alloc(64)
        truth = np.zeros(64, np.uint8)
        layouts = [self.Layout("a", True), self.Layout("b", False), self.Layout("c", True)]
        for _ in range(3000):
            at = int(rng.integers(64))
            n = int(rng.integers(64 - at + 1))
            what = rng.integers(4)
            if what == 0:
                data = rng.integers(0, 256, n, dtype=np.uint8)
                m.write(h, base + at, n)[:] = data
                truth[at:at + n] = data
            elif what == 1:
                self.assertEqual(m.read(h, base + at, n).tobytes(), truth[at:at + n].tobytes())
            elif n:
                layout = layouts[rng.integers(3)]
                m.bind(h, base + at, n, layout)
                self.assertEqual(on_wafer[layout.name].tobytes(), truth[at:at + n].tobytes())
                if layout.written:
                    on_wafer[layout.name] += 1
                    truth[at:at + n] += 1
                m.launched([layout])
        before = dict(moved)
        for _ in range(5):
            m.bind(h, base, 64, layouts[0])
            on_wafer["a"] += 1
            truth += 1
            m.launched([layouts[0]])
        self.assertLessEqual(moved["push"] - before["push"], 1, "what stays on the wafer is not sent again")
        self.assertEqual(m.read(h, base, 64).tobytes(), truth.tobytes())


class StandIn(unittest.TestCase):
    """The stand-in keeps to what is documented of SdkRuntime."""

    def test_semantics(self):
        wafer = Process(BUILD / "lib/baton/baton-emu-cs3", "--listen", "127.0.0.1:0")
        self.addCleanup(wafer.end)
        with tempfile.TemporaryDirectory() as folder:
            out = standin_compiler.compile_program(doubling(), pathlib.Path(folder)) / "out"
            r = standin_sdk.SdkRuntime(str(out), cmaddr="%s:%d" % wafer.address)
            options = {"streaming": False, "data_type": standin_sdk.MemcpyDataType.MEMCPY_32BIT, "order": standin_sdk.MemcpyOrder.ROW_MAJOR}
            with self.assertRaisesRegex(RuntimeError, r"Cannot call run\(\) multiple times, or call run\(\) if load\(\) has not been called"):
                r.run()
            r.load()
            x, words = r.get_id("x"), np.arange(4, dtype=np.uint32)
            self.assertIsNone(r.get_id("nothing"))
            with self.assertRaisesRegex(RuntimeError, "SdkRuntime must be running to accept memcpy commands."):
                r.memcpy_h2d(x, words, 0, 0, 4, 1, 1, nonblock=False, **options)
            r.run()
            tasks = [r.memcpy_h2d(x, words + i, 0, 0, 4, 1, 1, nonblock=True, **options) for i in range(3)]
            back = np.zeros(4, np.uint32)
            last = r.memcpy_d2h(back, x, 0, 0, 4, 1, 1, nonblock=True, **options)
            r.task_wait(last)
            self.assertTrue(all(r.is_task_done(t) for t in tasks), "one ordered stream")
            self.assertEqual(list(back), [2, 3, 4, 5])
            halves = np.array([0x12345678, 0xffff0001], np.uint32)
            r.memcpy_h2d(x, halves, 0, 0, 2, 1, 1, nonblock=False, **{**options, "data_type": standin_sdk.MemcpyDataType.MEMCPY_16BIT})
            r.memcpy_d2h(back, x, 0, 0, 4, 1, 1, nonblock=False, **options)
            self.assertEqual(list(back), [0x5678, 1, 4, 5], "16 bits are zero-extended")
            with self.assertRaises(TypeError):
                r.memcpy_h2d(x, words.astype(np.uint16), 0, 0, 4, 1, 1, nonblock=False, **options)
            with self.assertRaises(ValueError):
                r.memcpy_h2d(x, words, 0, 0, 3, 1, 1, nonblock=False, **options)
            r.stop()


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1] + sys.argv[3:], verbosity=1)
