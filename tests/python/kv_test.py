"""python/baton/kv.py: KV-caches in NumPy between two processes, across layouts; every ctypes struct and prototype against the recorded table.

kv_test.py SOURCE; BATON_LIBRARY names libbaton, beside which libbaton-kv lies. kv_test.py SOURCE prefill ADDRESS is the other process."""

import asyncio
import ctypes
import os
import pathlib
import re
import select
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

SOURCE = pathlib.Path(sys.argv[1])
sys.path.insert(0, str(SOURCE / "python"))
import baton
from baton import _abi, _kv_abi, kv, kv_layout

SOON = 60.0  # seconds; an end that only a broken test reaches
LEASE = 15.0  # long for a loaded machine: a death is heard of by the end of its stream
KEY = bytes(range(1, 33))
TOKENS = 150


def layouts():
    """(prefill, decode), each of which moves into the other."""
    small = dict(layers=4, kv_heads=4, head_dim=32)
    yield kv.Layout(**small, blocks=24), kv.Layout(**small, blocks=24)
    yield kv.Layout(**small, blocks=24, order="token_major"), kv.Layout(**small, blocks=5, block_tokens=64, order="head_major", pairing="block")
    yield kv.Layout(**small, blocks=24, order="head_major", pairing="token"), kv.Layout(**small, blocks=4, block_tokens=64, order="block_major")
    yield kv.Layout(**small, blocks=24, dtype="f32"), kv.Layout(**small, blocks=30, block_tokens=8, dtype="f32", heads=(1, 3), held_layers=(1, 4))
    latent = dict(layers=3, kv_heads=1, head_dim=72, rope_dim=8, pairing="latent")
    yield kv.Layout(**latent, blocks=24), kv.Layout(**latent, blocks=4, block_tokens=64)


def blocks_of(layout, tokens=TOKENS):
    n = -(-tokens // layout.block_tokens)
    return [int(b) for b in np.random.default_rng(n).permutation(layout.blocks)[:n]]


def cache(layout, salt):
    """[layer, half, token, head, d] of the whole model, by its numbers alone."""
    halves = 1 if layout.pairing == "latent" else 2
    shape = (layout.layers, halves, TOKENS, layout.kv_heads, layout.head_dim)
    n = np.arange(np.prod(shape), dtype=np.uint64).reshape(shape) * np.uint64(2654435761) + np.uint64(salt)
    return (n >> np.uint64(7)).astype(np.uint16).astype(layout.numpy_dtype)


def part(layout, whole):
    l0, l1 = layout.held_layers or (0, layout.layers)
    h0, h1 = layout.heads or (0, layout.kv_heads)
    return whole[l0:l1, :, :, h0:h1]


def store(pool, blocks, values):
    view = pool.view()
    for t in range(TOKENS):
        view[:, :, blocks[t // pool.layout.block_tokens], t % pool.layout.block_tokens] = values[:, :, t]


def fetch(pool, blocks):
    t = np.arange(TOKENS)
    return pool.view()[:, :, np.array(blocks)[t // pool.layout.block_tokens], t % pool.layout.block_tokens]


def prefill(address):
    ep = kv.Endpoint(key=KEY, name="prefill in Python", lease=LEASE)
    session = ep.connect(address, timeout=SOON)
    pools, pushes = {}, set()
    while True:
        for e in ep.wait(SOON):
            if e.kind == kv.EventKind.PEER_LOST or e.kind == kv.EventKind.NOTE and e.text == "bye":
                session.notify("bye", str(len(pushes)).encode())
                deadline = time.monotonic() + 1
                while time.monotonic() < deadline and not any(x.kind == kv.EventKind.PEER_LOST for x in ep.wait(0.1)):
                    pass
                return
            if e.kind == kv.EventKind.NOTE and e.text in ("hold", "lend"):
                line, salt = e.data.decode().split("|")
                layout = kv.Layout.parse(line)
                pool, blocks = ep.register(kv.Memfd(layout.nbytes), layout, model="m"), blocks_of(layout)
                store(pool, blocks, part(layout, cache(layout, int(salt))))
                pools[line + e.text] = ep.hold([(pool, blocks)], TOKENS) if e.text == "hold" else session.lend(pool, "lane", timeout=SOON)
                if e.text == "hold":
                    session.notify("held", pools[line + e.text].id.encode())
            if e.kind == kv.EventKind.READY and e.lender:
                e.lender.lend(blocks_of(e.lender._pool.layout), TOKENS, user=77)
            if e.kind == kv.EventKind.RETURNED:
                session.notify("returned", str(e.id).encode())
            if e.kind == kv.EventKind.COMPLETE and e.hold:
                session.notify("freed")
            if e.push and e.kind in (kv.EventKind.COMPLETE, kv.EventKind.FAILED):
                pushes.discard(e.push)
                e.push.close()
            if e.kind != kv.EventKind.PULL:
                continue
            line, fabric, salt, how = e.data.decode().split("|")
            if how == "refuse":
                session.refuse(e.id, baton.Error(baton.Code.NOT_FOUND, "no such request"))
                continue
            layout = kv.Layout.parse(line)
            if line not in pools:
                pools[line] = ep.register(np.zeros(layout.nbytes, np.uint8), layout, model="m")
            pool, blocks = pools[line], blocks_of(layout)
            store(pool, blocks, part(layout, cache(layout, int(salt))))
            begin = session.push if int(salt) % 3 == 0 else session.begin_push  # what is pushed before READY goes out with it
            push = begin(e.ticket, [(pool, blocks)], e.tokens, fabric=fabric, checksum=int(salt) % 2 == 0)
            pushes.add(push)
            if how == "hang":
                push.layer(0)
                continue
            for layer in range(push.layers):
                push.layer(layer)
            if not push.layers:
                push.all()
            push.seal(b"first token 42")


class Abi(unittest.TestCase):
    """What Python believes about baton_kv.h is what was recorded of it."""

    SCALARS = {"uint8_t": _abi.u8, "uint32_t": _abi.u32, "uint64_t": _abi.u64, "int32_t": _abi.i32, "int": ctypes.c_int, "void": None,
               "const char*": ctypes.c_char_p, "char*": ctypes.c_char_p}

    @classmethod
    def setUpClass(cls):
        lines = (SOURCE / "tests/abi/kv1.table").read_text().splitlines()
        cls.table = dict(line.split(": ", 1) for line in lines if not line.startswith("#"))

    def test_structs(self):
        recorded = {n.split()[1] for n in self.table if n.startswith("struct ")}
        self.assertEqual({s.__name__ for s in _kv_abi.STRUCTS}, recorded)
        for s in _kv_abi.STRUCTS:
            fields = {n.split(".", 1)[1]: tuple(map(int, re.match(r"offset (\d+) size (\d+)", v).groups()))
                      for n, v in self.table.items() if n.startswith(f"field {s.__name__}.")}
            self.assertEqual({n: (getattr(s, n).offset, ctypes.sizeof(k)) for n, k in s._fields_}, fields, s.__name__)

    def test_names(self):
        for prefix, enum, names in (("EVENT_", "event_kind", {k.name: k.value for k in kv.EventKind}), ("", "dtype", {n.upper(): i for i, n in enumerate(kv_layout.DTYPES) if n}),
                                    ("", "order", {n.upper(): i for i, n in enumerate(kv_layout.ORDERS) if n})):
            recorded = {n.split("BATON_KV_" + prefix)[1]: int(v) for n, v in self.table.items() if n.startswith(f"enum baton_kv_{enum}.")}
            self.assertEqual(names, recorded)

    def kind(self, text):
        if text in self.SCALARS:
            return self.SCALARS[text]
        plain = text.replace("const ", "")
        if plain.endswith("**"):
            return ctypes.POINTER(ctypes.c_void_p)
        base = plain[:-1]
        if base == "void" or f"opaque {base}" in self.table:
            return ctypes.c_void_p
        return ctypes.POINTER(self.SCALARS.get(base) or getattr(_kv_abi, base, None) or getattr(_abi, base))

    def test_prototypes(self):
        self.assertGreater(len(_kv_abi.PROTOTYPES), 30)
        for name, (result, arguments) in _kv_abi.PROTOTYPES.items():
            want, _, params = self.table[f"function {name}"].rstrip(")").partition("(")
            self.assertEqual(self.kind(want), result, name)
            self.assertEqual([self.kind(p) for p in params.split(", ")], arguments, name)


class Layouts(unittest.TestCase):
    def test_text_json_and_back(self):
        for pair in layouts():
            for l in pair:
                self.assertEqual(kv.Layout.parse(str(l)), l)
                self.assertEqual(kv.Layout.parse(str(l)).hash, l.hash)
        l = kv.Layout.parse('{"layers": 2, "kv_heads": 8, "head_dim": 64, "blocks": 9, "heads": [2, 4], "dtype": "f16"}')
        self.assertEqual(l, kv.Layout(2, 8, 64, 9, dtype="f16", heads=(2, 4)))
        self.assertEqual(l.nbytes, 2 * 2 * 9 * 16 * 2 * 64 * 2)
        for bad in ("", "kv/2 layers=1", "kv/1 layers=1 layers=1", '{"layers": -1}', '{"layrs": 1}', "kv/1 layers=4294967296", "{" * 100, "kv/1 heads=[0,2"):
            with self.assertRaises(baton.Error) as caught:
                kv.Layout.parse(bad)
            self.assertEqual(caught.exception.code, baton.Code.CORRUPT, bad)

    def test_the_first_difference_is_named(self):
        l = kv.Layout(2, 2, 64, 9)
        self.assertIsNone(l.difference(kv.Layout(2, 2, 64, 3, block_tokens=64, order="head_major")))
        self.assertIn("head_dim", l.difference(kv.Layout(2, 2, 32, 9)))
        self.assertIn("layers", l.difference(kv.Layout(3, 2, 64, 9)))
        self.assertIsNotNone(kv.Layout(2, 2, 64, 9, heads=(0, 1)).difference(kv.Layout(2, 2, 64, 9, heads=(1, 2))))

    def test_a_view_is_every_element_once(self):
        for pair in layouts():
            for l in pair:
                memory = np.zeros(l.nbytes, np.uint8)
                view = l.view(memory)
                view[...] = np.arange(view.size).reshape(view.shape).astype(l.numpy_dtype)
                flat = memory.view(l.numpy_dtype)
                self.assertEqual(flat.size, view.size)
                self.assertTrue((np.sort(flat) == np.sort(view.reshape(-1))).all())


class Keys(unittest.TestCase):
    def test_peers_are_known(self):
        with tempfile.TemporaryDirectory() as folder:
            at = lambda name: os.path.join(folder, name)  # noqa: E731
            decode, prefill = kv.new_identity(at("d")), kv.new_identity(at("p"))
            self.assertEqual(kv.read_identity(at("p")), prefill)
            with self.assertRaises(baton.Error):
                kv.new_identity(at("p"))
            kv.new_key(at("k"))
            with open(at("known"), "w") as f:
                f.write(f"decode-1 {decode.public_key} roles=decode\nprefill-1 {prefill.public_key} roles=prefill\n")
            os.chmod(at("known"), 0o600)
            seen = []

            def serve():
                with kv.Endpoint("127.0.0.1:0", identity=at("d"), known_peers=at("known"), accept_roles=["prefill"], seal=True, lease=LEASE) as ep:
                    seen.append(ep.address)
                    session = ep.accept(SOON)
                    seen.append(session.info())
                    session.notify("seen")
                    ep.wait(SOON)

            thread = threading.Thread(target=serve)
            thread.start()
            end = time.monotonic() + SOON
            while not seen and time.monotonic() < end:
                time.sleep(0.001)
            with kv.Endpoint(identity=at("p"), known_peers=at("known"), lease=LEASE) as ep:
                with self.assertRaises(baton.Error) as caught:
                    ep.connect(seen[0], timeout=SOON, role="prefill")
                self.assertEqual(caught.exception.code, baton.Code.PERMISSION)
                session = ep.connect(seen[0], timeout=SOON, peer="decode-1", role="decode")
                info = session.info()
                self.assertEqual([e.text for e in ep.wait(SOON)], ["seen"])
                self.assertEqual((info["peer"], info["fingerprint"], info["roles"], info["bulk_sealed"]), ("decode-1", decode.fingerprint, ["decode"], True))
            thread.join()
            self.assertEqual((seen[1]["peer"], seen[1]["roles"]), ("prefill-1", ["prefill"]))


class TwoProcesses(unittest.TestCase):
    def setUp(self):
        self.ep = kv.Endpoint("127.0.0.1:0", key=KEY, name="decode in Python", lease=LEASE)
        self.addCleanup(self.ep.close)
        self.start()

    def start(self):
        self.child = subprocess.Popen([sys.executable, __file__, str(SOURCE), "prefill", self.ep.address])
        self.addCleanup(self.child.wait)
        self.addCleanup(self.child.kill)
        self.session = self.ep.accept(timeout=SOON)
        self.assertIsNotNone(self.session)
        self.assertEqual(self.session.info()["name"], "prefill in Python")

    def until(self, kind, **fields):
        """All events up to one of these and what came with it; that one last."""
        end = time.monotonic() + SOON
        seen = []
        while time.monotonic() < end:
            seen += self.ep.wait(end - time.monotonic())
            hits = [e for e in seen if e.kind == kind and all(getattr(e, n) is v for n, v in fields.items())]
            if hits:
                return [e for e in seen if e is not hits[0]] + hits[:1]
        self.fail(f"{kind} did not come: {seen}")

    def ask(self, source, target, memory, fabric, salt, how="layers"):
        pool = self.ep.register(memory, target, model="m")
        blocks = blocks_of(target)
        grant = pool.grant(blocks, TOKENS, session=self.session)
        grant.pull(self.session, f"{source}|{fabric}|{salt}|{how}".encode())
        return pool, blocks, grant

    def test_caches_move_across_layouts_and_fabrics(self):
        salt = 0
        for source, target in layouts():
            for fabric, memory in (("mapped", kv.Memfd(target.nbytes)), ("tcp", np.zeros(target.nbytes, np.uint8))):
                with self.subTest(source=str(source), target=str(target), fabric=fabric):
                    salt += 1
                    pool, blocks, grant = self.ask(source, target, memory, fabric, salt)
                    events = self.until(kv.EventKind.COMPLETE, grant=grant)
                    self.assertEqual(events[-1].data, b"first token 42")
                    landed = [e.layers for e in events if e.kind == kv.EventKind.LANDED]
                    held = target.held_layers or (0, target.layers)
                    self.assertEqual((sorted(landed), landed[-1]), (landed, held[1] - held[0]))
                    want = part(target, cache(target, salt))
                    self.assertTrue((fetch(pool, blocks) == want).all())
                    stats = grant.stats()
                    self.assertEqual((stats["fabric"], stats["bytes"]), (fabric, want.nbytes))
                    grant.close()
                    pool.close()
        self.session.notify("bye")
        note = self.until(kv.EventKind.NOTE)[-1]
        self.assertEqual((note.text, note.data, note.session), ("bye", b"0", self.session))

    def test_a_held_prefix_does_not_come(self):
        source, target = list(layouts())[1]
        pool = self.ep.register(kv.Memfd(target.nbytes), target, model="m")
        blocks, held = blocks_of(target), 37  # in the middle of a block of either side
        pool.view()[...] = 7
        grant = pool.grant(blocks, TOKENS, session=self.session, held_tokens=held)
        grant.pull(self.session, f"{source}|auto|3|layers".encode())
        self.until(kv.EventKind.COMPLETE, grant=grant)
        here, want = fetch(pool, blocks), cache(target, 3)
        self.assertTrue((here[:, :, :held] == 7).all())
        self.assertTrue((here[:, :, held:] == want[:, :, held:]).all())

    def test_a_block_that_changes_hands_is_found_out(self):
        source, target = list(layouts())[1]
        pool, blocks, grant = self.ask(source, target, kv.Memfd(target.nbytes), "auto", 4)
        self.until(kv.EventKind.COMPLETE, grant=grant)
        self.assertEqual(grant.stats()["rails"], 0)
        grant.intact()
        pool.renew(blocks[1:2])
        with self.assertRaises(baton.Error) as caught:
            grant.intact()
        self.assertEqual(caught.exception.code, baton.Code.CORRUPT)

    def test_what_is_held_is_pulled_and_freed(self):
        source, target = list(layouts())[1]
        self.session.notify("hold", f"{source}|5".encode())
        hold = self.until(kv.EventKind.NOTE)[-1].data.decode()
        pool, blocks = self.ep.register(np.zeros(target.nbytes, np.uint8), target, model="m"), blocks_of(target)
        grant = pool.grant(blocks, TOKENS, session=self.session)
        with self.assertRaises(baton.Error) as caught:
            grant.pull_hold(hold)
        self.assertEqual(caught.exception.code, baton.Code.NOT_FOUND)
        self.session.track(hold)
        grant.pull_hold(hold)
        self.until(kv.EventKind.COMPLETE, grant=grant)
        self.assertTrue((fetch(pool, blocks) == cache(target, 5)).all())
        self.ep.confirm(hold)
        self.assertEqual(self.until(kv.EventKind.NOTE)[-1].text, "freed")
        self.session.track(hold)
        unheld = self.until(kv.EventKind.UNHELD)[-1]
        self.assertEqual((unheld.text, unheld.error.code), (hold, baton.Code.NOT_FOUND))

    def test_what_is_lent_is_read_in_place(self):
        source = next(layouts())[0]
        borrower = self.session.borrow(source, model="m", name="lane")
        self.session.notify("lend", f"{source}|8".encode())
        with_it = [e for e in self.until(kv.EventKind.READY, borrower=borrower) if e.kind == kv.EventKind.LOAN]
        loan = (with_it or self.until(kv.EventKind.LOAN))[-1]
        self.assertEqual((loan.borrower, loan.tokens, loan.user, list(loan.blocks)), (borrower, TOKENS, 77, blocks_of(source)))
        self.assertEqual(borrower.layout, source)
        t = np.arange(TOKENS)
        got = borrower.view()[:, :, np.array(loan.blocks)[t // source.block_tokens], t % source.block_tokens]
        borrower.check(loan.id)
        self.assertTrue((got == cache(source, 8)).all())
        with self.assertRaises(ValueError):
            borrower.view()[...] = 0
        borrower.give_back(loan.id)
        self.assertEqual(self.until(kv.EventKind.NOTE)[-1].data.decode(), str(loan.id))

    def test_refused_and_mismatched(self):
        source, target = next(layouts())
        pool, _, grant = self.ask(source, target, kv.Memfd(target.nbytes), "auto", 1, "refuse")
        error = self.until(kv.EventKind.FAILED, grant=grant)[-1].error
        self.assertEqual((error.code, error.what), (baton.Code.NOT_FOUND, "no such request"))
        with self.assertRaises(baton.Error) as caught:
            self.session.notify("baton.kv.pull", b"forged")
        self.assertEqual(caught.exception.code, baton.Code.INVALID_ARGUMENT)
        late = pool.grant([0], 1, timeout=0.0)
        self.assertEqual(self.until(kv.EventKind.FAILED, grant=late)[-1].error.code, baton.Code.DEADLINE)

    def test_a_dead_prefill_side_fails_what_it_was_filling(self):
        source, target = next(layouts())
        pool, blocks, grant = self.ask(source, target, kv.Memfd(target.nbytes), "mapped", 1, "hang")
        self.until(kv.EventKind.LANDED, grant=grant)
        self.child.kill()
        killed = time.monotonic()
        events = self.until(kv.EventKind.PEER_LOST, session=self.session)
        if not any(e.kind == kv.EventKind.FAILED for e in events):
            events += self.until(kv.EventKind.FAILED, grant=grant)
        self.assertLess(time.monotonic() - killed, 2 * LEASE)
        if not any(e.kind == kv.EventKind.QUIET for e in events):
            self.until(kv.EventKind.QUIET, grant=grant)
        self.assertTrue(grant.quiet)
        with self.assertRaises(baton.Error) as caught:
            self.session.info()
        self.assertEqual(caught.exception.code, baton.Code.PEER_LOST)
        grant.close()
        self.session.close()
        self.start()  # its successor fills the same blocks
        grant = pool.grant(blocks, TOKENS, session=self.session)
        grant.pull(self.session, f"{source}|auto|9|layers".encode())
        self.until(kv.EventKind.COMPLETE, grant=grant)
        self.assertTrue((fetch(pool, blocks) == cache(target, 9)).all())

    def test_a_push_is_awaited(self):
        layout = next(layouts())[0]

        async def one(ep):
            here = kv.Endpoint(key=KEY, name="prefill", lease=LEASE)
            theirs = ep.register(np.zeros(layout.nbytes, np.uint8), layout, model="m")
            mine = here.register(np.zeros(layout.nbytes, np.uint8), layout, model="m")
            store(mine, blocks_of(layout), cache(layout, 6))
            done = asyncio.get_running_loop().create_future()

            async def drive(endpoint):
                async for e in endpoint.events():
                    if e.kind == kv.EventKind.COMPLETE and e.grant and not done.done():
                        done.set_result(True)

            tasks = [asyncio.create_task(drive(ep))]
            session = await asyncio.get_running_loop().run_in_executor(None, here.connect, ep.address, SOON)  # blocks, and `ep` answers
            tasks.append(asyncio.create_task(drive(here)))
            push = session.begin_push("no such ticket", [(mine, blocks_of(layout))], TOKENS, timeout=SOON)
            with self.assertRaises(baton.Error) as caught:
                await push.ready()
            self.assertEqual(caught.exception.code, baton.Code.PERMISSION)
            grant = theirs.grant(blocks_of(layout), TOKENS)
            push = session.begin_push(grant.ticket, [(mine, blocks_of(layout))], TOKENS, timeout=SOON, bulk="always")
            self.assertEqual(await push.ready(), layout.layers)
            push.all()
            push.seal()
            await done
            self.assertTrue((fetch(theirs, blocks_of(layout)) == cache(layout, 6)).all())
            self.assertEqual(push.stats()["bulk"], True)
            for task in tasks:
                task.cancel()
            here.close()

        asyncio.run(asyncio.wait_for(one(self.ep), SOON))

    def test_asyncio_and_select(self):
        source, target = next(layouts())

        async def one():
            pool, blocks, grant = self.ask(source, target, kv.Memfd(target.nbytes), "auto", 5)
            async for e in self.ep.events():
                if e.kind == kv.EventKind.COMPLETE:
                    return (fetch(pool, blocks) == cache(target, 5)).all()

        self.assertTrue(asyncio.run(asyncio.wait_for(one(), SOON)))
        self.session.notify("bye")
        end = time.monotonic() + SOON
        while time.monotonic() < end:
            select.select([self.ep.fileno()], [], [], 1)
            if any(e.kind == kv.EventKind.NOTE for e in self.ep.poll()):
                return
        self.fail("no note came by select")


if __name__ == "__main__":
    if sys.argv[2:3] == ["prefill"]:
        prefill(sys.argv[3])
    else:
        unittest.main(argv=sys.argv[:1] + sys.argv[2:], verbosity=1)
