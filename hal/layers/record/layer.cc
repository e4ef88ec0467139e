// layer.cc: record=FILE[?inline=BYTES&mapped=1]: every call of the driver tables, for devctl replay. recorder.h has the format.
#include "hal/layers/argument.h"
#include "hal/layers/record/contents.h"
#include "hal/layers/record/recorder.h"
#include "hal/layers/tap.h"

#include <map>
#include <memory>

namespace baton::layers {
namespace {

using json = nlohmann::ordered_json;

constexpr uint64_t kInlineBytes = 4 << 20;

class Recorded : public Tap {
 public:
  Recorded(Recorder& r, const baton_driver_host* host, const char* address) : Tap(host, address), to_(r), id_(r.number()) {}
  ~Recorded() override {
    if (!described_) to_.line({{"call", "open"}, {"device", id_}, {"uri", uri}, {"result", "FAILED"}});
    else to_.line({{"call", "close"}, {"device", id_}});
    to_.flush();
  }

  int32_t info(baton_device_info* out, baton_error* e) {
    const int32_t code = next->info(device, out, e);
    if (code == BATON_OK && !std::exchange(described_, true))
      to_.line({{"call", "open"}, {"device", id_}, {"uri", uri}, {"driver", next->scheme ? next->scheme : ""}, {"emulated", out->emulated != 0}, {"result", "OK"}});
    return code;
  }
  int32_t alloc(uint32_t heap, uint64_t bytes, void** mem, baton_error* e) {
    const int32_t code = next->alloc(device, heap, bytes, mem, e);
    to_.line({{"call", "alloc"}, {"device", id_}, {"heap", heap}, {"bytes", bytes}, {"mem", code ? 0 : remember(*mem)}, {"result", baton_code_name(code)}});
    return code;
  }
  int32_t import(int fd, uint64_t offset, uint64_t bytes, void** mem, baton_error* e) {
    const int32_t code = next->import_buffer(device, fd, offset, bytes, mem, e);
    to_.line({{"call", "import"}, {"device", id_}, {"bytes", bytes}, {"mem", code ? 0 : remember(*mem)}, {"result", baton_code_name(code)}});
    return code;
  }
  void free(void* mem) {
    to_.line({{"call", "free"}, {"mem", memory_[mem].id}});
    memory_.erase(mem);
    next->free(device, mem);
  }
  int32_t load(uint32_t lane, const void* program, uint64_t bytes, const baton_constant* constants, uint32_t count, uint32_t rank,
               uint32_t ranks, void** out, baton_error* e) {
    json list = json::array();
    for (uint32_t i = 0; i < count; ++i)
      list.push_back({{"name", constants[i].name}, {"bytes", constants[i].bytes}, {"holds", to_.contents(constants[i].data, constants[i].bytes)}});
    const std::string name = to_.contents(program, bytes);
    const int32_t code = next->load(device, lane, program, bytes, constants, count, rank, ranks, out, e);
    const uint64_t id = to_.number();
    if (!code) programs_[*out] = id;
    to_.line({{"call", "load"}, {"device", id_}, {"lane", lane}, {"holds", name}, {"constants", list}, {"rank", rank}, {"ranks", ranks},
              {"program", code ? 0 : id}, {"result", baton_code_name(code)}});
    return code;
  }
  void unload(void* program) {
    to_.line({{"call", "unload"}, {"program", programs_[program]}});
    programs_.erase(program);
    next->unload(device, program);
  }

 private:
  struct Memory {
    uint64_t id = 0;
    bool asked = false;
    const uint8_t* base = nullptr;  // where it can be read
  };
  struct Range {
    const void* at;  // NULL: out of reach
    uint64_t bytes;
  };

  uint64_t remember(void* mem) { return (memory_[mem] = {to_.number(), false, nullptr}).id; }
  const uint8_t* reach(void* mem) {
    Memory& m = memory_[mem];
    if (!std::exchange(m.asked, true) && next->map) {
      void* p = nullptr;
      Error ignored;
      if (next->map(device, mem, &p, &ignored) == BATON_OK) m.base = static_cast<const uint8_t*>(p);
    }
    return m.base;
  }
  Range range(const baton_driver_side& s, uint64_t bytes) {
    if (!s.mem) return {s.ptr, bytes};
    const uint8_t* base = reach(s.mem);
    return {base ? base + s.offset : nullptr, bytes};
  }
  json place(void* mem, uint64_t offset) { return {{"mem", memory_[mem].id}, {"offset", offset}}; }
  json source(const baton_driver_side& s, uint64_t bytes) {
    if (!s.mem) return {{"host", to_.contents(s.ptr, bytes)}};
    json j = place(s.mem, s.offset);
    if (to_.mapped())
      if (Range r = range(s, bytes); r.at) j["holds"] = to_.contents(r.at, bytes);
    return j;
  }

  void opened(Queue& q) override {
    q.id = to_.number();
    to_.line({{"call", "queue_open"}, {"device", id_}, {"lane", q.lane}, {"queue", q.id}});
  }
  void closed(Queue& q) override { to_.line({{"call", "queue_close"}, {"queue", q.id}}); }
  void was_reset(int32_t code) override { to_.line({{"call", "reset"}, {"device", id_}, {"result", baton_code_name(code)}}); }
  void was_lost(const baton_error* e) override {
    to_.line({{"call", "lost"}, {"device", id_}, {"result", baton_code_name(e ? e->code : BATON_DEVICE_LOST)}});
  }

  void sending(Op& op, const baton_driver_op& o) override {
    op.id = to_.number();
    json j = {{"call", "submit"}, {"queue", op.queue->id}, {"op", op.id}, {"what", opcode_name(o.opcode)}, {"tag", o.tag}};
    std::vector<Range> results;
    if (o.opcode == BATON_OP_COPY) {
      j["src"] = source(o.u.copy.src, o.u.copy.bytes);
      j["dst"] = o.u.copy.dst.mem ? place(o.u.copy.dst.mem, o.u.copy.dst.offset) : json("host");
      j["bytes"] = o.u.copy.bytes;
      results.push_back(range(o.u.copy.dst, o.u.copy.bytes));
    } else if (o.opcode == BATON_OP_FILL) {
      const auto& f = o.u.fill;
      j.update({{"dst", place(f.mem, f.offset)}, {"bytes", f.bytes}, {"pattern", f.pattern}, {"pattern_bytes", f.pattern_bytes}});
      results.push_back(range({f.mem, nullptr, f.offset, -1, 0, 0}, f.bytes));
    } else if (o.opcode == BATON_OP_LAUNCH) {
      describe_launch(o, j, results);
    }
    results_[op.id] = std::move(results);
    to_.line(j);
  }
  void describe_launch(const baton_driver_op& o, json& j, std::vector<Range>& results) {
    const auto& l = o.u.launch;
    json bindings = json::array();
    for (uint32_t i = 0; i < l.binding_count; ++i) {
      const baton_driver_binding& b = l.bindings[i];
      const baton_driver_side side{b.mem, nullptr, b.offset, -1, 0, 0};
      json one = source(side, b.bytes);
      one.update({{"name", b.name}, {"bytes", b.bytes}});
      bindings.push_back(one);
      if (to_.mapped()) results.push_back(range(side, b.bytes));
    }
    j.update({{"program", programs_[l.program]}, {"bindings", bindings}, {"args", std::vector<int64_t>(l.args, l.args + l.arg_count)}});
  }
  void sent(Queue&, Op* const* ops, uint32_t count, uint32_t taken, int32_t code) override {
    if (taken >= count) return;
    json list = json::array();  // those that will come again, or failed at the door
    for (uint32_t i = taken; i < count; ++i) {
      if (!ops[i]->below) continue;
      list.push_back(ops[i]->id);
      results_.erase(ops[i]->id);
    }
    to_.line({{"call", "returned"}, {"ops", list}, {"result", baton_code_name(code)}});
  }
  void completed(Op& op, uint64_t cost_ns, const baton_error* error) override {
    json holds = json::array();
    for (const Range& r : results_[op.id]) holds.push_back(r.at && !error ? json(hash_of(r.at, r.bytes)) : json(nullptr));
    results_.erase(op.id);
    to_.line({{"call", "complete"}, {"op", op.id}, {"cost_ns", cost_ns}, {"result", baton_code_name(error ? error->code : BATON_OK)}, {"holds", holds}});
    pass(op, cost_ns, error);
  }

  Recorder& to_;
  const uint64_t id_;
  bool described_ = false;
  std::map<void*, Memory> memory_;
  std::map<void*, uint64_t> programs_;
  std::map<uint64_t, std::vector<Range>> results_;  // of ops below
};

Recorded* self(void* device) { return static_cast<Recorded*>(Tap::of(device)); }

baton_driver slots() {
  baton_driver t = Tap::slots();
  t.info = [](void* d, baton_device_info* out, baton_error* e) { return self(d)->info(out, e); };
  t.alloc = [](void* d, uint32_t heap, uint64_t bytes, void** mem, baton_error* e) { return self(d)->alloc(heap, bytes, mem, e); };
  t.import_buffer = [](void* d, int fd, uint64_t offset, uint64_t bytes, void** mem, baton_error* e) { return self(d)->import(fd, offset, bytes, mem, e); };
  t.free = [](void* d, void* mem) { self(d)->free(mem); };
  t.load = [](void* d, uint32_t lane, const void* p, uint64_t bytes, const baton_constant* c, uint32_t n, uint32_t rank, uint32_t ranks, void** out,
              baton_error* e) { return self(d)->load(lane, p, bytes, c, n, rank, ranks, out, e); };
  t.unload = [](void* d, void* program) { self(d)->unload(program); };
  return t;
}
const baton_driver kSlots = slots();

Result<Recorder*> create(const char* text) {
  BATON_ASSIGN(Argument a, parse_argument(text, {"inline", "mapped"}));
  BATON_ASSIGN(uint64_t limit, a.number("inline", kInlineBytes));
  BATON_ASSIGN(uint64_t mapped, a.number("mapped", 0));
  BATON_ASSIGN(OutputFile file, OutputFile::open(a.main));
  return new Recorder(std::move(file), limit, mapped != 0);
}

}  // namespace
}  // namespace baton::layers

extern "C" __attribute__((visibility("default"))) const baton_layer* baton_layer_v1() {
  using namespace baton::layers;
  static const baton_layer layer = {
      .struct_size = sizeof(baton_layer),
      .abi_version = BATON_ABI_VERSION,
      .name = "record",
      .description = "writes every call of the driver tables to a file, for devctl replay",
      .create =
          [](const char* argument, void** out, baton_error* e) {
            auto r = create(argument);
            if (!r) return *e = r.error(), e->code;
            *out = *r;
            return int32_t(BATON_OK);
          },
      .destroy = [](void* l) { delete static_cast<Recorder*>(l); },
      .attach =
          [](void* l, const baton_driver_host* host, const char* uri, baton_layered** out, baton_error*) {
            *out = new Recorded(*static_cast<Recorder*>(l), host, uri);
            return int32_t(BATON_OK);
          },
      .detach = [](baton_layered* d) { delete self(d); },
      .slots = &kSlots,
  };
  return &layer;
}
