"""As much of an engine as a KV connector sees: a scheduler with a block pool and a worker whose "attention" writes known numbers. One step is the recorded
call order (interface.json)."""

import pickle
import time
from types import SimpleNamespace as Box

import numpy as np
from baton_connector import BatonConnector
from baton_connector_base import KVConnectorRole

LAYERS, HEADS, DIM = 6, 2, 16


def kv_of(prompt, layer):
    """[half, token, head, d] by the prompt alone."""
    n = np.arange(2 * len(prompt) * HEADS * DIM, dtype=np.uint64).reshape(2, len(prompt), HEADS, DIM)
    n = n * np.uint64(2654435761) + np.uint64(layer * 97) + np.array(prompt, np.uint64).reshape(1, -1, 1, 1) * np.uint64(40503)
    return (n >> np.uint64(5)).astype(np.uint16)


class Engine:
    def __init__(self, block_tokens, blocks, *, contiguous, hnd, paired, extra):
        config = Box(kv_transfer_config=Box(kv_connector_extra_config=extra), parallel_config=Box(rank=0, tensor_parallel_size=1),
                     cache_config=Box(block_size=block_tokens),
                     model_config=Box(model="tiny", get_total_num_kv_heads=lambda: HEADS, get_num_layers=lambda parallel: LAYERS))
        self.bt, self.free = block_tokens, [int(b) for b in np.random.default_rng(block_tokens).permutation(blocks)]
        self.worker = BatonConnector(config, KVConnectorRole.WORKER, None)
        address = self.worker.worker_address
        extra = dict(extra, address=address)
        config.kv_transfer_config = Box(kv_connector_extra_config=extra)
        self.scheduler = BatonConnector(config, KVConnectorRole.SCHEDULER, None)
        self.address = address
        # The logical shape is [2, blocks, tokens, heads, dim] or [blocks, 2, ...]; what is different lies in the strides, as in vLLM.
        physical = [blocks, 2] if paired else [2, blocks]
        physical += [HEADS, block_tokens, DIM] if hnd else [block_tokens, HEADS, DIM]
        whole = np.zeros([LAYERS] + physical, np.uint16) if contiguous else None
        self.caches, self.views = {}, []
        for layer in range(LAYERS):
            a = whole[layer] if contiguous else np.zeros(physical, np.uint16)
            a = a.swapaxes(2, 3) if hnd else a
            self.caches[f"model.layers.{layer}.attn"] = a
            self.views.append(a.swapaxes(0, 1) if paired else a)
        self.worker.register_kv_caches(self.caches)
        self.requests, self.delayed, self.finished_ids = {}, {}, set()
        self.log = []

    def add(self, req_id, prompt, params):
        self.requests[req_id] = Box(request_id=req_id, prompt_token_ids=prompt, kv_transfer_params=params, blocks=[], computed=0, state="new", failed=False)
        return self.requests[req_id]

    def _cells(self, r, tokens):
        t = np.arange(tokens)
        return np.array(r.blocks)[t // self.bt], t % self.bt

    def read(self, r):
        block, at = self._cells(r, len(r.prompt_token_ids))
        return np.stack([v[:, block, at] for v in self.views])

    def expected(self, r):
        return np.stack([kv_of(r.prompt_token_ids, l) for l in range(LAYERS)])

    def write(self, r, begin, end, layer):
        block, at = self._cells(r, end)
        self.views[layer][:, block[begin:end], at[begin:end]] = kv_of(r.prompt_token_ids, layer)[:, begin:end]

    def preload(self, r, tokens):
        """As a prefix cache would have it: the first tokens are here."""
        self._allocate(r)
        for layer in range(LAYERS):
            self.write(r, 0, tokens, layer)
        r.computed = tokens

    def _allocate(self, r):
        while len(r.blocks) * self.bt < len(r.prompt_token_ids):
            r.blocks.append(self.free.pop())

    def step(self, chunk=10**6):
        """Schedules, runs a forward pass, and takes what the worker reports."""
        new, cached, n = [], Box(req_ids=[], resumed_req_ids=set(), new_block_ids=[], num_computed_tokens=[]), {}
        for r in list(self.requests.values()):
            if r.state == "new":
                external, is_async = self.scheduler.get_num_new_matched_tokens(r, r.computed)
                self._allocate(r)
                self.scheduler.update_state_after_alloc(r, Box(get_block_ids=lambda r=r: (r.blocks,)), external)
                if is_async:
                    r.state = "loading"
                    continue
                r.state = "running"
                n[r.request_id] = min(chunk, len(r.prompt_token_ids) - r.computed)
                new.append(Box(req_id=r.request_id, block_ids=(r.blocks,), num_computed_tokens=r.computed))
            elif r.state == "running":
                n[r.request_id] = min(chunk, len(r.prompt_token_ids) - r.computed)
                cached.req_ids.append(r.request_id)
                cached.new_block_ids.append(None)
                cached.num_computed_tokens.append(r.computed)
        output = Box(scheduled_new_reqs=new, scheduled_cached_reqs=cached, num_scheduled_tokens=n)
        meta = pickle.loads(pickle.dumps(self.scheduler.build_connector_meta(output)))  # it goes to another process
        self.worker.bind_connector_metadata(meta)
        self.worker.start_load_kv(Box())
        for layer, (name, cache) in enumerate(self.caches.items()):
            self.worker.wait_for_layer_load(name)
            for req_id, count in n.items():
                r = self.requests[req_id]
                self.write(r, r.computed, r.computed + count, layer)
            self.worker.save_kv_layer(name, cache, Box())
        self.worker.wait_for_save()
        ended, self.finished_ids = self.finished_ids, set()
        sent, received = self.worker.get_finished(ended)
        bad = self.worker.get_block_ids_with_load_errors()
        self.worker.clear_connector_metadata()
        for req_id in sent or ():
            self.free += self.delayed.pop(req_id)
        for req_id in received or ():
            r = self.requests[req_id]
            r.state, r.failed = "loaded", bool(bad & set(r.blocks))
            r.bad = bad & set(r.blocks)
        done = {}
        for req_id, count in n.items():
            r = self.requests[req_id]
            r.computed += count
            if r.computed == len(r.prompt_token_ids):
                done[req_id] = self.finish(req_id)
        return done

    def finish(self, req_id):
        r = self.requests.pop(req_id)
        later, params = self.scheduler.request_finished(r, r.blocks)
        self.finished_ids.add(req_id)
        if later:
            self.delayed[req_id] = r.blocks
        else:
            self.free += r.blocks
        return params

    def until(self, done, seconds=60.0):
        end = time.monotonic() + seconds
        while not done():
            if time.monotonic() > end:
                raise TimeoutError
            self.step()
            time.sleep(0.001)
