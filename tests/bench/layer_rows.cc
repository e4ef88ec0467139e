// What a layer costs: 64 empty ops on host:// below each, beside the same without layers, which is the path that is there when no layer is
// named: its driver table is the driver's own, and nothing asks for validation (which is in the core, not over the table). The first row is that path against itself, in two instances: what the others scatter by.
#include "tests/bench/groups.h"

#include <fmt/format.h>

#include <unistd.h>

#include <fstream>

namespace baton::bench {
namespace {

constexpr uint32_t kBatch = 64, kRounds = 500;

struct Lane {
  Instance in;
  Device device;
  Queue queue;
  Timeline done;
  uint64_t value = 0;

  static Result<Lane> open(const std::string& layers) {
    baton_instance_options o{};
    o.struct_size = sizeof o;
    o.layers = layers.c_str();
    Lane l;
    BATON_ASSIGN(l.in, Instance::create(&o));
    BATON_ASSIGN(l.device, l.in.open("host://"));
    BATON_ASSIGN(l.queue, l.device.queue(0));
    BATON_ASSIGN(l.done, l.in.timeline("bench"));
    return l;
  }
  double nops() {  // us an op; negative: one failed
    Op ops[kBatch];
    const uint64_t start = now_ns();
    for (uint32_t r = 0; r < kRounds; ++r) {
      for (Op& op : ops) op = nop().signal(done, ++value);
      if (!queue.submit(ops).ok()) return -1;
      for (uint64_t seen = 0; seen < value;) {
        in.poll();
        if (baton_timeline_query(done.get(), &seen, nullptr)) return -1;
      }
    }
    return double(now_ns() - start) / kRounds / kBatch / 1e3;
  }
};

// A folder for what the layers read and write, gone with the object.
class Folder {
 public:
  Folder() { made_ = mkdtemp(path_) != nullptr; }
  ~Folder() {
    for (const char* f : {"plan.json", "trace.json", "calls.jsonl"}) unlink(file(f).c_str());
    if (made_) rmdir(path_);
  }
  std::string file(const char* name) const { return std::string(path_) + "/" + name; }

 private:
  char path_[32] = "/tmp/baton-bench-XXXXXX";
  bool made_ = false;
};

}  // namespace

Status layer_rows(const Settings& s, Report& report) {
  Folder folder;
  // Rules about other ops: an op that no rule is about is what the layer costs everybody.
  std::ofstream(folder.file("plan.json")) << R"({"rules": [{"op": "FILL", "action": "fail"}]})";
  const std::pair<const char*, std::string> kinds[] = {{"no layer", ""},
                                                       {"validate", "validate"},
                                                       {"fault", "fault=" + folder.file("plan.json")},
                                                       {"delay 0", "delay=0"},
                                                       {"trace", "trace=" + folder.file("trace.json")},
                                                       {"record", "record=" + folder.file("calls.jsonl")}};
  BATON_ASSIGN(Lane bare, Lane::open(""));
  for (auto& [name, layers] : kinds) {
    progress(fmt::format("layers: {} NOPs on host://, {}", kBatch, name));
    BATON_ASSIGN(Lane lane, Lane::open(layers));
    lane.nops();  // the first ones grow what is kept
    bare.nops();
    auto p = interleave(s.repeats(15), [&] { return lane.nops(); }, [&] { return bare.nops(); });
    if (p.figure.min < 0) return Error(BATON_FAILED, fmt::format("an empty op below {} failed", name), "");
    report.add({.group = "layers", .figure = fmt::format("{} NOPs on host://, each, {}", kBatch, name), .unit = "us", .value = p.figure,
                .yardstick = "no layer", .against = p.yardstick, .ratio = p.ratio.median});
  }
  return {};
}

}  // namespace baton::bench
