// layer.cc: wrong=WHAT?on=ADDRESS: a driver that breaks one promise of baton.h, made of one that keeps them all. It is there for
// caught_test.cc, which runs the conformance suites against each: a promise whose breaking no suite notices is not tested. Not installed.
#include "hal/layers/argument.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <map>
#include <vector>

namespace baton::layers {
namespace {

struct Choice {
  std::string what, on;
};

struct Wrong;

// An op that was handed down.
struct Sent {
  Wrong* device;
  void* up;
  bool over;
  std::vector<std::pair<uint64_t, uint64_t>> marks;  // kept back
};

struct Block {
  uint32_t heap;
  uint64_t bytes;
};

struct Wrong : baton_layered {
  Wrong(std::string w, const baton_driver_host* h) : baton_layered{sizeof(baton_layered), 0, &services, nullptr, nullptr, nullptr}, what(std::move(w)), up(h), services(*h) {
    services.complete = complete;
    services.progress = progress;
    services.lost = [](void* d, const baton_error* e) { of(d)->up->lost(of(d)->up->core_device, e); };
    services.core_device = static_cast<baton_layered*>(this);
  }
  static Wrong* of(void* d) { return static_cast<Wrong*>(static_cast<baton_layered*>(d)); }
  bool is(const char* w) const { return what == w; }

  static void complete(void* cookie, uint64_t cost_ns, const baton_error* e) {
    auto* s = static_cast<Sent*>(cookie);
    Wrong* d = s->device;
    if (s->over) return;
    s->over = true;
    if (d->is("loses-completions") && ++d->completions % 20 == 0) return;
    for (auto [k, offset] : s->marks) d->up->progress(s->up, k, offset);
    d->up->complete(s->up, d->is("costs-nothing") ? 0 : cost_ns, d->is("never-fails") ? nullptr : e);
  }

  static int32_t progress(void* cookie, uint64_t k, uint64_t offset_ns) {
    auto* s = static_cast<Sent*>(cookie);
    Wrong* d = s->device;
    if (s->over) return 1;
    if (k && d->is("marks-late")) return s->marks.emplace_back(k, offset_ns), 0;
    if (d->is("marks-at-once")) offset_ns = 1;
    const int32_t code = d->up->progress(s->up, d->is("marks-too-far") && k ? k + 1 : k, offset_ns);
    return d->is("deaf-to-cancel") ? 0 : code;
  }

  void distort(baton_driver_op& op) {
    if (op.opcode == BATON_OP_COPY) {
      auto& c = op.u.copy;
      if (is("copy-tail") && c.bytes > 64 && c.bytes % 2) --c.bytes;
      if (is("copy-source-offset") && c.src.mem) c.src.offset = 0;
      if (is("copy-target-offset") && c.dst.mem && c.dst.offset % 2) --c.dst.offset;
    } else if (op.opcode == BATON_OP_FILL) {
      if (is("fill-byte")) op.u.fill.pattern_bytes = 1;
      if (is("fill-offset")) op.u.fill.offset = 0;
    } else if (op.opcode == BATON_OP_LAUNCH) {
      auto& l = op.u.launch;
      if (is("launch-binding-offset") && l.binding_count) {
        bindings.emplace_back(l.bindings, l.bindings + l.binding_count);
        for (auto& b : bindings.back()) b.offset = 0;
        l.bindings = bindings.back().data();
      }
      if (is("launch-argument") && l.arg_count) {
        arguments.emplace_back(l.args, l.args + l.arg_count);
        ++arguments.back().back();
        l.args = arguments.back().data();
      }
    }
  }

  int32_t submit(void* queue, const baton_driver_op* ops, uint32_t count, uint32_t* taken, baton_error* e) {
    *taken = 0;
    if (is("full-is-an-error") && count > 8) {
      std::snprintf(e->what, sizeof e->what, "the ring is full");
      return BATON_CAPACITY;
    }
    std::vector<baton_driver_op> batch(ops, ops + count);
    for (baton_driver_op& op : batch) {
      sent.push_back({this, op.cookie, false, {}});
      op.cookie = &sent.back();
      distort(op);
    }
    if (is("out-of-order")) std::reverse(batch.begin(), batch.end());
    const int32_t code = next->submit(device, queue, batch.data(), count, taken, e);
    if (is("completes-early"))
      for (uint32_t i = 0; i < *taken; ++i) complete(batch[i].cookie, 0, nullptr);
    return code;
  }

  int32_t alloc(uint32_t heap, uint64_t bytes, void** mem, baton_error* e) {
    for (auto it = kept.begin(); it != kept.end(); ++it)
      if (it->second.heap == heap && it->second.bytes == bytes) {
        *mem = it->first;
        blocks[*mem] = it->second;
        kept.erase(it);
        return BATON_OK;
      }
    int32_t code = next->alloc(device, heap, bytes, mem, e);
    if (code == BATON_CAPACITY && is("grants-too-much")) code = next->alloc(device, heap, bytes = 4096, mem, e);
    if (code == BATON_OK) blocks[*mem] = {heap, bytes};
    return code;
  }
  void free(void* mem) {
    auto it = blocks.find(mem);
    if (is("stale-memory") && it != blocks.end() && it->second.bytes < 1 << 20) kept.insert(*it);
    else if (!is("never-frees")) next->free(device, mem);
    if (it != blocks.end()) blocks.erase(it);
  }
  int32_t map(void* mem, void** ptr, baton_error* e) {
    if (!is("map-elsewhere")) return next->map(device, mem, ptr, e);
    elsewhere.emplace_back(blocks[mem].bytes);
    *ptr = elsewhere.back().data();
    return BATON_OK;
  }
  int32_t import(int fd, uint64_t offset, uint64_t bytes, void** mem, baton_error* e) {
    const int32_t code = next->import_buffer(device, fd, is("import-offset") ? 0 : offset, bytes, mem, e);
    if (is("import-takes-the-descriptor") && code == BATON_OK) ::close(fd);
    return code;
  }

  int32_t info(baton_device_info* out, baton_error* e) {
    const int32_t code = next->info(device, out, e);
    if (is("counts-no-memory"))
      for (auto& h : out->heaps) h.bytes_used = 0;
    if (is("lanes-come-and-go")) out->lanes += infos++ % 2;
    return code;
  }
  int32_t telemetry(baton_telemetry* out, baton_error* e) {
    if (!telemetries++ || !is("telemetry-stands-still"))
      if (int32_t code = next->telemetry(device, &told, e)) return code;
    *out = told;
    return BATON_OK;
  }
  int32_t load(uint32_t lane, const void* program, uint64_t bytes, const baton_constant* constants, uint32_t count, uint32_t rank,
               uint32_t ranks, void** out, baton_error* e) {
    std::vector<baton_constant> all(constants, constants + count);
    std::vector<std::vector<char>> zeros;
    if (is("zero-constants"))
      for (baton_constant& c : all) c.data = zeros.emplace_back(c.bytes).data();
    return next->load(device, lane, program, bytes, all.data(), count, rank, ranks, out, e);
  }
  int32_t open_queue(uint32_t lane, void** queue, int* fd, baton_error* e) {
    const int32_t code = next->queue_open(device, lane, queue, fd, e);
    if (code == BATON_OK && is("wakes-nobody")) *fd = silent = eventfd(0, EFD_CLOEXEC);
    if (is("leaks-descriptors")) (void)!dup(2);
    return code;
  }

  const std::string what;
  const baton_driver_host* const up;
  baton_driver_host services;
  std::deque<Sent> sent;
  std::deque<std::vector<baton_driver_binding>> bindings;
  std::deque<std::vector<int64_t>> arguments;
  std::map<void*, Block> blocks, kept;
  std::deque<std::vector<char>> elsewhere;
  baton_telemetry told{};
  uint64_t completions = 0, infos = 0, telemetries = 0;
  int silent = -1;
};

baton_driver make_slots() {
  baton_driver t{};
  t.struct_size = sizeof t;
  t.abi_version = BATON_ABI_VERSION;
  t.info = [](void* d, baton_device_info* out, baton_error* e) { return Wrong::of(d)->info(out, e); };
  t.telemetry = [](void* d, baton_telemetry* out, baton_error* e) { return Wrong::of(d)->telemetry(out, e); };
  t.reset = [](void* d, baton_error* e) {
    Wrong* w = Wrong::of(d);
    return w->is("reset-does-nothing") ? int32_t(BATON_OK) : w->next->reset(w->device, e);
  };
  t.alloc = [](void* d, uint32_t heap, uint64_t bytes, void** mem, baton_error* e) { return Wrong::of(d)->alloc(heap, bytes, mem, e); };
  t.free = [](void* d, void* mem) { Wrong::of(d)->free(mem); };
  t.map = [](void* d, void* mem, void** ptr, baton_error* e) { return Wrong::of(d)->map(mem, ptr, e); };
  t.export_buffer = [](void* d, void* mem, int* fd, uint64_t* offset, baton_error* e) {
    Wrong* w = Wrong::of(d);
    const int32_t code = w->next->export_buffer(w->device, mem, fd, offset, e);
    if (w->is("export-offset")) *offset += 4096;
    return code;
  };
  t.import_buffer = [](void* d, int fd, uint64_t offset, uint64_t bytes, void** mem, baton_error* e) { return Wrong::of(d)->import(fd, offset, bytes, mem, e); };
  t.fence = [](void* d, void* mem, uint64_t offset, uint64_t bytes, baton_error* e) {
    Wrong* w = Wrong::of(d);
    return w->is("no-fence") ? BATON_OK : w->next->fence(w->device, mem, offset, bytes, e);
  };
  t.load = [](void* d, uint32_t lane, const void* program, uint64_t bytes, const baton_constant* constants, uint32_t count, uint32_t rank,
              uint32_t ranks, void** out, baton_error* e) { return Wrong::of(d)->load(lane, program, bytes, constants, count, rank, ranks, out, e); };
  t.queue_open = [](void* d, uint32_t lane, void** queue, int* fd, baton_error* e) { return Wrong::of(d)->open_queue(lane, queue, fd, e); };
  t.queue_close = [](void* d, void* queue) {
    Wrong* w = Wrong::of(d);
    if (w->next->queue_close) w->next->queue_close(w->device, queue);
  };
  t.submit = [](void* d, void* queue, const baton_driver_op* ops, uint32_t count, uint32_t* taken, baton_error* e) {
    return Wrong::of(d)->submit(queue, ops, count, taken, e);
  };
  t.poll = [](void* d, void* queue, uint32_t budget) {
    Wrong* w = Wrong::of(d);
    return w->next->poll ? w->next->poll(w->device, queue, budget) : 0;
  };
  return t;
}

}  // namespace
}  // namespace baton::layers

extern "C" __attribute__((visibility("default"))) const baton_layer* baton_layer_v1() {
  using namespace baton::layers;
  static const baton_driver slots = make_slots();
  static const baton_layer layer = {
      .struct_size = sizeof(baton_layer),
      .abi_version = BATON_ABI_VERSION,
      .name = "wrong",
      .description = "breaks one promise",
      .create =
          [](const char* argument, void** out, baton_error* e) {
            auto a = parse_argument(argument, {"on"});
            if (!a) return *e = a.error(), e->code;
            *out = new Choice{a->main, a->options["on"]};
            return int32_t(BATON_OK);
          },
      .destroy = [](void* l) { delete static_cast<Choice*>(l); },
      .attach =
          [](void* l, const baton_driver_host* host, const char* uri, baton_layered** out, baton_error*) {
            auto* c = static_cast<Choice*>(l);
            *out = new Wrong(matches(c->on, uri) ? c->what : "", host);
            return int32_t(BATON_OK);
          },
      .detach = [](baton_layered* d) { delete Wrong::of(d); },
      .slots = &slots,
  };
  return &layer;
}
