"""BatonConnector: vLLM's v1 KV connector over baton.kv. Prefill here, decode there, other block sizes and orders included.

How a request goes. The router gives both engines one `transfer_id` in kv_transfer_params:
    prefill   {"do_remote_decode": true, "transfer_id": "r7"}
    decode    {"do_remote_prefill": true, "transfer_id": "r7", "remote_address": "10.0.0.5:7000"}    (the prefill worker's; request_finished returns all three)
The decode worker grants the request's blocks and pulls at once, whether the prompt has been prefilled yet or not. The prefill worker pushes when it has both the pull and
the blocks: layer by layer inside of the forward pass that ends the prompt, or whole if the pull came later. Its blocks are freed once they are sent, or nobody has asked
for them in `timeout_s`. A failed request is reported with its blocks and no sooner than nobody can write into them any more.

Memory: a pool for each run of layers that lie at one stride in memory; kv_caches are anything with `data_ptr()`, `stride()` and `element_size()` (torch), or
`__array_interface__` (NumPy), in host memory, or memory of a device that is mapped there.

Threads: one, `baton-kv`, in a worker, so that a peer's pull is answered while the engine is idle or computing; a lock is held for each look, never over a wait.
Not done: ranks of unequal tensor parallelism (rank i pulls from rank i), hybrid KV groups, MLA with FP8 scales, host buffers that vLLM copies to a device itself.

kv_connector_extra_config: listen ("HOST:PORT", the port plus the rank), key_file or identity and known_peers, timeout_s (120), lease_s (15), fabric ("auto"), model (else model_config's).
"""

from __future__ import annotations

import dataclasses
import json
import logging
import select
import threading
import time
from typing import Any

from baton import Error, kv

try:  # under vLLM; the tests give a base of the recorded interface
    from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1, KVConnectorMetadata, KVConnectorRole
except ImportError:
    from baton_connector_base import KVConnectorBase_V1, KVConnectorMetadata, KVConnectorRole

logger = logging.getLogger(__name__)


@dataclasses.dataclass
class Load:
    """Decode: a request whose blocks wait for their KV."""

    req_id: str
    transfer_id: str
    address: str
    blocks: list[int]
    tokens: int
    held: int  # tokens that are computed here already


@dataclasses.dataclass
class Save:
    """Prefill: a request whose prompt is through by the end of this step."""

    req_id: str
    transfer_id: str
    blocks: list[int]
    tokens: int


@dataclasses.dataclass
class BatonMetadata(KVConnectorMetadata):
    """Scheduler to worker, for one step."""

    loads: list[Load] = dataclasses.field(default_factory=list)
    saves: list[Save] = dataclasses.field(default_factory=list)
    dropped: list[str] = dataclasses.field(default_factory=list)  # req_ids that were aborted


def _params(request: Any) -> dict[str, Any]:
    return getattr(request, "kv_transfer_params", None) or {}


class _Scheduler:
    def __init__(self, address: str, block_tokens: int):
        self.address, self.block_tokens = address, block_tokens
        self.meta = BatonMetadata()
        self.prefills: dict[str, dict[str, Any]] = {}  # req_id: {transfer_id, tokens, blocks, done}

    def matched(self, request: Any, computed: int) -> tuple[int, bool]:
        if not _params(request).get("do_remote_prefill"):
            return 0, False
        n = len(request.prompt_token_ids) - computed
        return (n, True) if n > 0 else (0, False)

    def allocated(self, request: Any, blocks: Any, external: int) -> None:
        p = _params(request)
        ids = list(blocks.get_block_ids()[0])
        if p.get("do_remote_decode"):
            self.prefills[request.request_id] = {"transfer_id": p["transfer_id"], "tokens": len(request.prompt_token_ids), "blocks": ids, "sent": False}
        if p.get("do_remote_prefill") and external > 0:
            tokens = len(request.prompt_token_ids)
            self.meta.loads.append(Load(request.request_id, p["transfer_id"], p["remote_address"], ids, tokens, tokens - external))
            p["do_remote_prefill"] = False  # the second call for the same request, after the load, is about other blocks

    def step(self, output: Any) -> BatonMetadata:
        """Which prompts end in this step: known by what is computed before it and what is scheduled in it."""
        computed = {r.req_id: r.num_computed_tokens for r in output.scheduled_new_reqs}
        for r in output.scheduled_new_reqs:
            if r.req_id in self.prefills:
                self.prefills[r.req_id]["blocks"] = list(r.block_ids[0])
        cached = output.scheduled_cached_reqs
        for i, req_id in enumerate(cached.req_ids):
            computed[req_id] = cached.num_computed_tokens[i]
            p, new = self.prefills.get(req_id), cached.new_block_ids[i]
            if p and req_id in cached.resumed_req_ids:  # preempted: its prompt is computed again, in other blocks
                p["blocks"], p["sent"] = list(new[0]) if new else [], False
            elif p and new:
                p["blocks"] += list(new[0])
        for req_id, n in output.num_scheduled_tokens.items():
            p = self.prefills.get(req_id)
            if p and not p["sent"] and req_id in computed and computed[req_id] + n >= p["tokens"]:
                p["sent"] = True
                self.meta.saves.append(Save(req_id, p["transfer_id"], list(p["blocks"]), p["tokens"]))
        meta, self.meta = self.meta, BatonMetadata()
        return meta

    def finished(self, request: Any, blocks: list[int]) -> tuple[bool, dict[str, Any] | None]:
        p = self.prefills.pop(request.request_id, None)
        if p is None:
            return False, None
        if not p["sent"]:  # aborted in the middle of its prompt
            self.meta.dropped.append(p["transfer_id"])
            return False, None
        return True, {"do_remote_prefill": True, "do_remote_decode": False, "transfer_id": p["transfer_id"], "remote_address": self.address}


# ---- memory ----


def describe(tensor: Any) -> tuple[int, tuple[int, ...], tuple[int, ...], int, str]:
    """(address, shape, strides in elements, bytes an element, dtype) of anything that says so."""
    if hasattr(tensor, "data_ptr"):
        device = getattr(getattr(tensor, "device", None), "type", "cpu")
        if device != "cpu":
            raise NotImplementedError(f"KV caches on {device}: map them into the host first")
        return tensor.data_ptr(), tuple(tensor.shape), tuple(tensor.stride()), tensor.element_size(), str(tensor.dtype).removeprefix("torch.")
    i = tensor.__array_interface__
    return i["data"][0], tuple(tensor.shape), tuple(s // tensor.itemsize for s in tensor.strides), tensor.itemsize, str(tensor.dtype)


_DTYPES = {"bfloat16": "bf16", "uint16": "bf16", "float16": "f16", "half": "f16", "float32": "f32", "float": "f32", "float8_e4m3fn": "f8e4m3", "float8_e5m2": "f8e5m2"}


def layer_layout(shape: tuple[int, ...], strides: tuple[int, ...], dtype: str, *, layers: int, kv_heads: int, heads: tuple[int, int], block_tokens: int) -> kv.Layout:
    """The layout of one layer's tensor: [2, blocks, tokens, heads, dim], [blocks, 2, tokens, heads, dim], or [blocks, tokens, dim] of MLA; NHD or HND by its strides."""
    common = dict(layers=layers, dtype=_DTYPES[dtype], block_tokens=block_tokens, held_layers=(0, 1))
    if len(shape) == 3:
        candidates = [kv.Layout(kv_heads=1, head_dim=shape[2], blocks=shape[0], pairing="latent", **common)]
        have = (strides[0], strides[1], strides[2])
        pick = lambda s: (s[2], s[3], s[5])  # noqa: E731
    else:
        half, block = (0, 1) if shape[0] == 2 and shape[2] == block_tokens else (1, 0)
        if len(shape) != 5 or shape[half] != 2 or shape[2] != block_tokens:
            raise NotImplementedError(f"a KV cache of shape {shape} with blocks of {block_tokens} tokens")
        candidates = [kv.Layout(kv_heads=kv_heads, heads=heads, head_dim=shape[4], blocks=shape[block], order=order, pairing=pairing, **common)
                      for order in ("token_major", "head_major") for pairing in ("apart", "block", "token")]
        have = (strides[half], strides[block], strides[2], strides[3], strides[4])
        pick = lambda s: s[1:]  # noqa: E731
    for layout in candidates:
        if pick(layout.element_strides) == have:
            return layout
    raise NotImplementedError(f"a KV cache of shape {shape} with strides {strides}")


@dataclasses.dataclass
class Run:
    """Layers [begin, end) that lie at one stride: a pool."""

    begin: int
    end: int
    pool: kv.Pool


# ---- the worker ----


class _Worker:
    def __init__(self, config: dict[str, Any], rank: int, block_tokens: int, layers: int, kv_heads: int, heads: tuple[int, int], model: str):
        self.config, self.rank, self.model = config, rank, config.get("model", model)
        self.block_tokens, self.layers, self.kv_heads, self.heads = block_tokens, layers, kv_heads, heads
        self.timeout = float(config.get("timeout_s", 120))
        self.fabric = config.get("fabric", "auto")
        keys = {k: config[k] for k in ("key_file", "identity", "known_peers") if k in config}
        if "key" in config:
            keys["key"] = bytes.fromhex(config["key"])
        self.ep = kv.Endpoint(config.get("listen"), name=f"vllm worker {rank}", lease=float(config.get("lease_s", 15)), **keys)
        self.lock = threading.RLock()
        self.runs: list[Run] = []
        self.names: dict[str, int] = {}
        self.sessions: dict[str, kv.Session] = {}   # by address, of decode
        self.peers: list[kv.Session] = []           # who connected
        # decode
        self.loads: dict[str, dict[kv.Grant, int]] = {}  # req_id: {grant: layers landed}
        self.load_of: dict[kv.Grant, Load] = {}
        self.failed_loads: dict[str, set[kv.Grant]] = {}  # of them, those that are not quiet yet
        self.received: set[str] = set()
        self.bad_blocks: set[int] = set()
        # prefill
        self.pulls: dict[str, list[tuple[kv.Event, list[int], float]]] = {}  # by transfer_id: asked for, not pushed: the layers, when it is given up
        self.saves: dict[str, tuple[Save, float]] = {}  # by transfer_id
        self.ready: set[str] = set()                     # of them, those whose prompt is through
        self.layerwise: dict[str, list[tuple[kv.Push, int, int, list[Run]]]] = {}  # of this step: push, its layers, its sources
        self.pushes: dict[kv.Push, tuple[str, int]] = {}  # transfer_id, layers
        self.pushed: dict[str, int] = {}                # layers of the model that were sent, by transfer_id
        self.sent: set[str] = set()
        self.ended: set[str] = set()                    # req_ids that the scheduler has finished
        self.open = True
        self.thread = threading.Thread(target=self._run, name="baton-kv", daemon=True)
        self.thread.start()

    # -- memory --

    def register(self, caches: dict[str, Any]) -> None:
        with self.lock:
            described = [(name, tensor, *describe(tensor)) for name, tensor in caches.items()]
            self.names = {name: i for i, (name, *_) in enumerate(described)}
            self.layers = max(self.layers, len(described))
            layouts = [layer_layout(shape, strides, dtype, layers=self.layers, kv_heads=self.kv_heads, heads=self.heads, block_tokens=self.block_tokens)
                       for _, _, _, shape, strides, _, dtype in described]
            begin = 0
            for end in range(1, len(described) + 1):
                if end < len(described) and described[end][2] == described[end - 1][2] + layouts[begin].nbytes and layouts[end] == layouts[begin]:
                    continue
                layout = dataclasses.replace(layouts[begin], held_layers=(begin, end))
                pool = self.ep.register([d[1] for d in described[begin:end]], layout, self.model, address=described[begin][2])
                self.runs.append(Run(begin, end, pool))
                begin = end

    # -- decode --

    def load(self, load: Load) -> None:
        with self.lock:
            self.loads[load.req_id] = {}
            try:
                session = self._session(load.address)
                for run in self.runs:
                    grant = run.pool.grant(load.blocks, load.tokens, session=session, timeout=self.timeout, held_tokens=load.held)
                    self.loads[load.req_id][grant] = 0
                    self.load_of[grant] = load
                    grant.pull(session, json.dumps({"transfer": load.transfer_id, "layers": [run.begin, run.end]}).encode())
            except Error as e:
                logger.warning("KV of request %s cannot be loaded: %s", load.req_id, e)
                self._load_failed(load, e)

    def _session(self, address: str) -> kv.Session:
        s = self.sessions.get(address)
        if s is None:
            s = self.sessions[address] = self.ep.connect(address, timeout=min(self.timeout, 10.0))
        return s

    def _load_failed(self, load: Load, why: Any) -> None:
        """All grants of the request fail; it is reported once none of them can be written into."""
        if load.req_id in self.failed_loads:
            return
        grants = self.loads.pop(load.req_id, {})
        loud = set()
        for g in grants:
            g.cancel(why)
            if not g.quiet:
                loud.add(g)
            else:
                self.load_of.pop(g, None)
                g.close()
        self.failed_loads[load.req_id] = loud
        first = load.held // self.block_tokens
        self.bad_blocks.update(load.blocks[first:-(-load.tokens // self.block_tokens)])
        self._settle(load.req_id)

    def _settle(self, req_id: str) -> None:
        if req_id in self.failed_loads and not self.failed_loads[req_id]:
            del self.failed_loads[req_id]
            self.received.add(req_id)

    def wait_layer(self, layer: int, req_ids: list[str]) -> None:
        """Until the layer of these requests is there, or they have failed."""
        run = next(r for r in self.runs if r.begin <= layer < r.end)
        end = time.monotonic() + self.timeout
        while time.monotonic() < end:
            with self.lock:
                self._look()
                waiting = [n for r in req_ids for g, n in self.loads.get(r, {}).items() if g._pool is run.pool and n <= layer - run.begin]
            if not waiting:
                return
            self._sleep(0.01)

    # -- prefill --

    def save(self, save: Save) -> None:
        """Called as the forward pass begins that ends the prompt."""
        with self.lock:
            self._look()
            self.saves[save.transfer_id] = (save, time.monotonic() + self.timeout)
            if save.transfer_id in self.pulls:  # asked for already: layer by layer
                for event, layers, _ in self.pulls.pop(save.transfer_id):
                    push = self._push(event, layers, save)
                    if push:
                        self.layerwise.setdefault(save.transfer_id, []).append(push)

    def _push(self, event: kv.Event, want: list[int], save: Save):
        begin, end = want
        runs = [r for r in self.runs if r.begin < end and r.end > begin]
        try:
            push = event.session.begin_push(event.ticket, [(r.pool, save.blocks) for r in runs], event.tokens, fabric=self.fabric, timeout=min(self.timeout, 10.0))
        except Error as e:  # that one decode worker gets nothing: it is told by its own side of the same failure
            logger.warning("KV of request %s was not pushed: %s", save.req_id, e)
            self._account(save.transfer_id, self.layers)
            return None
        self.pushes[push] = (save.transfer_id, end - begin)
        return push, begin, end, runs

    def save_layer(self, layer: int) -> None:
        with self.lock:
            for pushes in self.layerwise.values():
                for push, begin, end, runs in pushes:
                    if begin <= layer < end and not push.closed:
                        try:
                            for source in range(len(runs)):  # the one that holds it sends; the others have nothing to do for it
                                push.layer(layer - begin, source)
                        except Error as e:
                            logger.warning("a layer was not pushed: %s", e)  # its FAILED comes by the next look
            self._look()

    def wait_saved(self) -> None:
        """At the end of the forward pass: what was pushed by layers is sealed, and its blocks are read before they change."""
        with self.lock:
            mine = [p for pushes in self.layerwise.values() for p, *_ in pushes]
            self.layerwise.clear()
            self.ready = set(self.saves)  # also for pulls that come from here on
            for p in mine:
                if not p.closed:
                    try:
                        p.all()
                        p.seal(b"")
                    except Error as e:
                        logger.warning("a push was not sealed: %s", e)
        end = time.monotonic() + self.timeout
        while time.monotonic() < end:
            with self.lock:
                self._look()
                if not any(p in self.pushes for p in mine):
                    return
            self._sleep(0.01)

    def _serve(self) -> None:
        """Pulls whose blocks are there, and blocks that nobody has asked for."""
        for transfer in [t for t in self.pulls if t in self.ready]:
            for event, layers, _ in self.pulls.pop(transfer):
                if transfer not in self.saves:
                    self._refuse(event, "another part of the request could not be pushed")
                    continue
                pushed = self._push(event, layers, self.saves[transfer][0])
                if pushed:
                    pushed[0].all()
                    pushed[0].seal(b"")
        now = time.monotonic()
        for transfer in [t for t, (_, until) in self.saves.items() if until < now and not any(p[0] == t for p in self.pushes.values())]:
            logger.warning("nobody has asked for the KV of %s in %.0f s: its blocks are freed", transfer, self.timeout)
            self._release(transfer)
        for transfer in [t for t, pulls in self.pulls.items() if pulls[0][2] < now]:
            self.drop(transfer, "no such request came in time")

    def _account(self, transfer: str, layers: int) -> None:
        self.pushed[transfer] = self.pushed.get(transfer, 0) + layers
        if self.pushed[transfer] >= self.layers and transfer in self.saves:
            self._release(transfer)

    def _release(self, transfer: str) -> None:
        self.sent.add(self.saves.pop(transfer)[0].req_id)
        self.ready.discard(transfer)
        self.pushed.pop(transfer, None)

    def drop(self, transfer: str, why: str = "the prefill of the request was aborted") -> None:
        with self.lock:
            for event, *_ in self.pulls.pop(transfer, []):
                self._refuse(event, why)

    def _refuse(self, event: kv.Event, why: str) -> None:
        try:
            event.session.refuse(event.id, why)
        except Error:
            pass  # its session is lost: nobody asks any more

    # -- events --

    def _look(self) -> None:
        while True:
            s = self.ep.accept()
            if s is None:
                break
            self.peers.append(s)
        for e in self.ep.poll():
            self._take(e)
        self._serve()

    def _take(self, e: kv.Event) -> None:
        if e.kind == kv.EventKind.PULL:
            try:
                want = json.loads(e.data)
                begin, end = want["layers"]
                transfer = str(want["transfer"])
                if not 0 <= begin < end <= self.layers:
                    raise ValueError("layers")
            except (ValueError, KeyError, TypeError):
                return self._refuse(e, "a pull that this side does not understand")
            self.pulls.setdefault(transfer, []).append((e, [begin, end], time.monotonic() + self.timeout))
        elif e.kind == kv.EventKind.PEER_LOST:
            self.sessions = {a: s for a, s in self.sessions.items() if s is not e.session}
            self.peers = [s for s in self.peers if s is not e.session]
            for transfer in list(self.pulls):
                self.pulls[transfer] = [p for p in self.pulls[transfer] if p[0].session is not e.session]
                if not self.pulls[transfer]:
                    del self.pulls[transfer]
            e.session.close()
        elif e.push is not None and e.kind in (kv.EventKind.COMPLETE, kv.EventKind.FAILED):
            transfer, layers = self.pushes.pop(e.push)
            if e.kind == kv.EventKind.FAILED:
                logger.warning("a push of %s failed: %s", transfer, e.error)
            self._account(transfer, layers)
            e.push.close()
        elif e.grant is not None and e.grant in self.load_of:
            self._take_grant(e, self.load_of[e.grant])

    def _take_grant(self, e: kv.Event, load: Load) -> None:
        if e.kind == kv.EventKind.LANDED:
            if load.req_id in self.loads:
                self.loads[load.req_id][e.grant] = e.layers
        elif e.kind == kv.EventKind.COMPLETE:
            grants = self.loads.get(load.req_id)
            del self.load_of[e.grant]
            if load.req_id in self.failed_loads:
                self.failed_loads[load.req_id].discard(e.grant)
                self._settle(load.req_id)
            elif grants is not None:
                del grants[e.grant]
                if not grants:
                    del self.loads[load.req_id]
                    self.received.add(load.req_id)
            e.grant.close()
        elif e.kind == kv.EventKind.FAILED:
            logger.warning("KV of request %s did not come: %s", load.req_id, e.error)
            self._load_failed(load, e.error)
        elif e.kind == kv.EventKind.QUIET:
            self.failed_loads.get(load.req_id, set()).discard(e.grant)
            del self.load_of[e.grant]
            e.grant.close()
            self._settle(load.req_id)

    def finished(self, ended: set[str]) -> tuple[set[str], set[str]]:
        """Sent: only what the scheduler has finished, now or before, may be named."""
        with self.lock:
            self._look()
            self.ended |= ended
            sent, received = self.sent & self.ended, self.received
            self.sent -= sent
            self.ended -= sent
            self.received = set()
            return sent, received

    def take_bad_blocks(self) -> set[int]:
        with self.lock:
            bad, self.bad_blocks = self.bad_blocks, set()
            return bad

    def _sleep(self, seconds: float) -> None:
        select.select([self.ep.fileno()], [], [], seconds)

    def _run(self) -> None:
        while self.open:
            self._sleep(0.05)
            with self.lock:
                if self.open:
                    try:
                        self._look()
                    except Error:
                        logger.exception("the KV connector's look failed")
            time.sleep(0.0002)  # let the engine have the lock

    def close(self) -> None:
        with self.lock:
            self.open = False
        self.thread.join()
        self.ep.close()


class BatonConnector(KVConnectorBase_V1):
    """See the top of this file; each method's contract is its base's."""

    def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any = None):
        super().__init__(vllm_config, role, kv_cache_config)
        extra = dict(vllm_config.kv_transfer_config.kv_connector_extra_config)
        parallel, model = vllm_config.parallel_config, vllm_config.model_config
        rank = getattr(parallel, "rank", 0)
        if extra.get("listen"):
            host, _, port = extra["listen"].rpartition(":")
            extra["listen"] = f"{host}:{int(port) + (rank if int(port) else 0)}"
        block_tokens = vllm_config.cache_config.block_size
        self._scheduler = self._worker = None
        if role == KVConnectorRole.SCHEDULER:
            self._scheduler = _Scheduler(extra.get("address") or extra.get("listen", ""), block_tokens)
        else:
            total, tp = model.get_total_num_kv_heads(), parallel.tensor_parallel_size
            each = max(1, total // tp)
            first = rank % tp * total // tp
            self._worker = _Worker(extra, rank, block_tokens, model.get_num_layers(parallel), total, (first, first + each), getattr(model, "model", ""))

    # ---- scheduler ----

    def get_num_new_matched_tokens(self, request, num_computed_tokens):
        return self._scheduler.matched(request, num_computed_tokens)

    def update_state_after_alloc(self, request, blocks, num_external_tokens):
        self._scheduler.allocated(request, blocks, num_external_tokens)

    def build_connector_meta(self, scheduler_output):
        return self._scheduler.step(scheduler_output)

    def request_finished(self, request, block_ids):
        return self._scheduler.finished(request, block_ids)

    # ---- worker ----

    def register_kv_caches(self, kv_caches):
        self._worker.register(kv_caches)

    def start_load_kv(self, forward_context, **kwargs):
        meta = self._get_connector_metadata()
        for transfer in meta.dropped:
            self._worker.drop(transfer)
        for load in meta.loads:
            self._worker.load(load)
        for save in meta.saves:
            self._worker.save(save)

    def wait_for_layer_load(self, layer_name):
        # Loads are asynchronous: a request is scheduled once get_finished has named it. Nothing of this step waits.
        return

    def save_kv_layer(self, layer_name, kv_layer, attn_metadata, **kwargs):
        self._worker.save_layer(self._worker.names[layer_name])

    def wait_for_save(self):
        self._worker.wait_saved()

    def get_finished(self, finished_req_ids):
        sent, received = self._worker.finished(finished_req_ids)
        return sent or None, received or None

    def get_block_ids_with_load_errors(self):
        return self._worker.take_bad_blocks()

    def shutdown(self):
        if self._worker:
            self._worker.close()

    @property
    def worker_address(self) -> str:
        """Where this worker listens."""
        return self._worker.ep.address

    @classmethod
    def requires_piecewise_for_cudagraph(cls, extra_config):
        return True  # save_kv_layer runs between layers
