"""The vLLM adapter (transport/adapters/vllm) against the recorded interface: a prefill engine and a decode engine in two processes.

adapter_test.py SOURCE; BATON_LIBRARY names libbaton. adapter_test.py SOURCE prefill is the other process: a line of JSON in, a line out."""

import inspect
import json
import pathlib
import subprocess
import sys
import time
import unittest

try:
    import numpy as np
except ImportError:
    print("no NumPy: skipped (./dev test installs python3-numpy)")
    sys.exit(77)

SOURCE = pathlib.Path(sys.argv[1])
sys.path[:0] = [str(SOURCE / "python"), str(SOURCE / "transport/adapters/vllm"), str(SOURCE / "tests/python/vllm")]
import baton_connector
from baton_connector_base import INTERFACE, KVConnectorBase_V1
from engine import HEADS, LAYERS, Engine

KEY = "07" * 32
EXTRA = {"listen": "127.0.0.1:0", "key": KEY, "timeout_s": 60, "lease_s": 20}


def prefill():
    engine = Engine(16, 64, contiguous=False, hnd=False, paired=False, extra=EXTRA)
    print(json.dumps({"address": engine.address}), flush=True)
    for line in sys.stdin:
        ask = json.loads(line)
        answer = {}
        if ask["do"] == "prefill":
            engine.add(ask["id"], ask["prompt"], {"do_remote_decode": True, "transfer_id": ask["transfer"]})
            if ask.get("await_pull"):  # the decode side has asked before the prompt is computed
                wait_pull(engine, ask["transfer"])
            done = {}
            while not done:
                done = engine.step(ask.get("chunk", 10**6))
            answer = done[ask["id"]]
        elif ask["do"] == "free":
            engine.until(lambda: not engine.delayed)
            answer = {"free": len(engine.free)}
        elif ask["do"] == "end":
            engine.worker.shutdown()
            return
        print(json.dumps(answer), flush=True)


def wait_pull(engine, transfer):
    end = time.monotonic() + 60
    while transfer not in engine.worker._worker.pulls and time.monotonic() < end:
        time.sleep(0.001)


class Interface(unittest.TestCase):
    def test_every_method_has_the_recorded_parameters(self):
        own = {n: f for n, f in vars(baton_connector.BatonConnector).items() if inspect.isfunction(f) and not n.startswith("_") or n == "__init__"}
        recorded = INTERFACE["methods"]
        for name, f in own.items():
            if name not in recorded:
                continue
            spec = [p for p in inspect.signature(f).parameters.values() if p.name != "self"]
            self.assertEqual([("**" if p.kind is p.VAR_KEYWORD else "") + p.name for p in spec], recorded[name]["parameters"], name)
        missing = {n for n, m in recorded.items() if m["abstract"]} - set(own)
        self.assertEqual(missing, set())
        self.assertTrue(issubclass(baton_connector.BatonConnector, KVConnectorBase_V1))

    def test_layouts_are_told_by_their_strides(self):
        for order, pairing in (("token_major", "apart"), ("head_major", "apart"), ("token_major", "block"), ("head_major", "block")):
            a = np.zeros(([2, 9] if pairing == "apart" else [9, 2]) + ([HEADS, 16, 8] if order == "head_major" else [16, HEADS, 8]), np.float16)
            a = a.swapaxes(2, 3) if order == "head_major" else a
            _, shape, strides, _, dtype = baton_connector.describe(a)
            layout = baton_connector.layer_layout(shape, strides, dtype, layers=LAYERS, kv_heads=HEADS, heads=(0, HEADS), block_tokens=16)
            self.assertEqual((layout.order, layout.pairing, layout.blocks, layout.dtype), (order, pairing, 9, "f16"))
        _, shape, strides, _, dtype = baton_connector.describe(np.zeros((9, 16, 576), np.uint16))
        self.assertEqual(baton_connector.layer_layout(shape, strides, dtype, layers=LAYERS, kv_heads=8, heads=(0, 8), block_tokens=16).pairing, "latent")
        with self.assertRaises(NotImplementedError):
            baton_connector.layer_layout((2, 9, 16, 2, 8), (1, 2, 3, 4, 5), "uint16", layers=1, kv_heads=2, heads=(0, 2), block_tokens=16)


class TwoEngines(unittest.TestCase):
    def setUp(self):
        self.child = subprocess.Popen([sys.executable, __file__, str(SOURCE), "prefill"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.addCleanup(self.child.stdout.close)
        self.addCleanup(self.child.stdin.close)
        self.addCleanup(self.child.wait)
        self.addCleanup(self.child.kill)
        self.address = json.loads(self.child.stdout.readline())["address"]
        self.engine = Engine(64, 12, contiguous=True, hnd=True, paired=True, extra=dict(EXTRA, listen=None))
        self.addCleanup(self.engine.worker.shutdown)
        self.assertEqual(len(self.engine.worker._worker.runs), 1)  # one pool here, one a layer over there

    def tell(self, **ask):
        self.child.stdin.write(json.dumps(ask) + "\n")
        self.child.stdin.flush()

    def ask(self, **ask):
        self.tell(**ask)
        return json.loads(self.child.stdout.readline())

    def decode(self, req_id, prompt, params):
        r = self.engine.add(req_id, prompt, params)
        self.engine.until(lambda: r.state == "loaded")
        return r

    def check(self, r):
        self.assertFalse(r.failed)
        self.assertTrue((self.engine.read(r) == self.engine.expected(r)).all())

    def test_decode_after_prefill(self):
        for i, tokens in enumerate((1, 16, 150, 300)):
            prompt = list(range(i, i + tokens))
            params = self.ask(do="prefill", id=f"p{i}", transfer=f"t{i}", prompt=prompt, chunk=64)
            self.assertEqual((params["do_remote_prefill"], params["remote_address"]), (True, self.address))
            self.check(self.decode(f"d{i}", prompt, params))
            self.assertEqual(self.ask(do="free"), {"free": 64})
            self.engine.finish(f"d{i}")

    def test_layer_by_layer_when_decode_asks_first(self):
        prompt = list(range(100, 300))
        r = self.engine.add("d", prompt, {"do_remote_prefill": True, "transfer_id": "early", "remote_address": self.address})
        self.engine.step()
        self.assertEqual(r.state, "loading")
        params = self.ask(do="prefill", id="p", transfer="early", prompt=prompt, chunk=100, await_pull=True)
        self.assertEqual(params["transfer_id"], "early")
        self.engine.until(lambda: r.state == "loaded")
        self.check(r)
        self.assertEqual(self.ask(do="free"), {"free": 64})

    def test_a_prefix_that_is_here_does_not_come(self):
        prompt = list(range(7, 207))
        params = self.ask(do="prefill", id="p", transfer="t", prompt=prompt)
        r = self.engine.add("d", prompt, params)
        self.engine.preload(r, 64)
        self.engine.until(lambda: r.state == "loaded")
        self.check(r)

    def test_a_dead_prefill_side_is_reported_with_its_blocks(self):
        prompt = list(range(200))
        r = self.engine.add("d", prompt, {"do_remote_prefill": True, "transfer_id": "never", "remote_address": self.address})
        self.engine.step()
        self.engine.step()
        self.assertEqual(r.state, "loading")  # asked, and nobody prefills it
        self.child.kill()
        killed = time.monotonic()
        self.engine.until(lambda: r.state == "loaded")
        self.assertLess(time.monotonic() - killed, 30)
        self.assertEqual(r.bad, set(r.blocks))
        # and one that cannot even be asked for
        late = self.decode("late", prompt, {"do_remote_prefill": True, "transfer_id": "x", "remote_address": self.address})
        self.assertEqual(late.bad, set(late.blocks))

    def test_killed_at_any_layer(self):
        """No request hangs, and one that is not reported as failed is right."""
        for delay in (0.0, 0.002, 0.01):
            prompt = list(range(250))
            r = self.engine.add("d", prompt, {"do_remote_prefill": True, "transfer_id": "k", "remote_address": self.address})
            self.engine.step()
            self.tell(do="prefill", id="p", transfer="k", prompt=prompt, await_pull=True)
            time.sleep(delay)
            self.child.kill()
            self.engine.until(lambda: r.state == "loaded")
            if not r.failed:
                self.check(r)
            self.engine.finish("d")
            self.doCleanups()
            self.setUp()


if __name__ == "__main__":
    if sys.argv[2:3] == ["prefill"]:
        prefill()
    else:
        unittest.main(argv=sys.argv[:1] + sys.argv[2:], verbosity=1)
