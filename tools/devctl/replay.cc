// replay: issues the calls of a recording again, in its order, and compares what comes out. Where the recording saw a completion, the
// replay waits for it: what was ordered stays ordered, what overlapped may not.
#include "hal/layers/record/contents.h"
#include "tools/devctl/recording.h"
#include "tools/devctl/verbs.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

namespace baton::devctl {
namespace {

constexpr uint64_t kPatienceMs = 60'000;  // for one op

struct Difference {
  size_t line;
  std::string what, recorded, replayed;
};

class Replayer {
 public:
  Replayer(const Context& c, const ReplayCall& call, const Recording& r) : c_(c), call_(call), r_(r) {}
  Status run() {
    BATON_ASSIGN(host_, c_.devices.instance().open("host://replay"));
    for (const RecordedCall& c : r_.calls) {
      if (interrupted()) return {};
      try {
        Status s = one(c);
        if (!s.ok()) return Error(s.error().code, fmt::format("line {}, {}: {}", c.line, c.name, s.error().what), s.error().next, s.error().device);
      } catch (const nlohmann::json::exception& e) {
        return Error(BATON_CORRUPT, fmt::format("line {}, {}: {}", c.line, c.name, e.what()), "record anew: BATON_LAYERS=record=FILE");
      }
      if (!stopped_.empty()) return {};
      ++calls;
    }
    return {};
  }

  size_t calls = 0, ops = 0, compared = 0, out_of_reach = 0;
  std::vector<Difference> differences;
  std::map<uint64_t, std::string> uris;
  const std::string& stopped() const { return stopped_; }

 private:
  struct OpenDevice {
    Device device;
    Queue side;  // for reading and writing what cannot be mapped
  };
  struct Memory {
    Buffer buffer;
    uint64_t device = 0;
  };
  struct OpenQueue {
    Queue queue;
    uint64_t device = 0;
  };
  struct Place {
    uint64_t mem = 0, offset = 0, bytes = 0;
  };
  struct Issued {
    Timeline done;
    Buffer from, to;             // host memory
    std::vector<Place> results;  // in the order of the recording's hashes; mem 0: `to`
  };

  void differs(size_t line, const std::string& what, const std::string& recorded, const std::string& replayed) {
    if (recorded != replayed) differences.push_back({line, what, recorded, replayed});
  }
  std::string uri_of(uint64_t id, const std::string& scheme, const std::string& recorded, bool emulated) const {
    const std::string ordinary = emulated ? "emu+" + scheme + "://0" : recorded;
    if (call_.device.empty()) return ordinary;
    return r_.with_queues.count(id) || scheme != "host" ? call_.device : ordinary;
  }
  const std::string& contents(const json& j, const char* key) const { return r_.contents.at(j.at(key).get<std::string>()); }

  // A recorded call's result beside today's. An object that was made then and is not made now ends the replay.
  template <class T>
  Status made(const RecordedCall& c, Result<T>& now) {
    const std::string then = c.fields.at("result");
    ++compared;
    differs(c.line, c.name, then, baton_code_name(now ? BATON_OK : now.error().code));
    return now || then != "OK" ? Status() : Status(now.error());
  }

  Status one(const RecordedCall& c) {
    const json& f = c.fields;
    auto id = [&](const char* key) { return f.at(key).get<uint64_t>(); };
    if (c.name == "open") return open(c);
    if (c.name == "close") return devices_.erase(id("device")), Status();
    if (c.name == "alloc" || c.name == "import") {
      Result<Buffer> b = devices_.at(id("device")).device.alloc(id("bytes"), f.value("heap", 0u));
      BATON_TRY(made(c, b));
      if (b) memory_[id("mem")] = {std::move(*b), id("device")};
    } else if (c.name == "free") {
      memory_.erase(id("mem"));
    } else if (c.name == "load") {
      return load(c);
    } else if (c.name == "unload") {
      programs_.erase(id("program"));
    } else if (c.name == "queue_open") {
      BATON_ASSIGN(Queue q, devices_.at(id("device")).device.queue(f.at("lane").get<uint32_t>()));
      queues_[id("queue")] = {std::move(q), id("device")};
    } else if (c.name == "queue_close") {
      queues_.erase(id("queue"));
    } else if (c.name == "reset") {
      Status s = devices_.at(id("device")).device.reset_device();
      ++compared;
      differs(c.line, "reset", f.at("result"), baton_code_name(s.ok() ? BATON_OK : s.error().code));
      devices_.at(id("device")).side.reset();
    } else if (c.name == "submit") {
      if (!r_.returned.count(id("op"))) return submit(c);
    } else if (c.name == "complete") {
      return complete(c);
    } else if (c.name == "lost") {
      stopped_ = fmt::format("the device was lost at line {}; a loss cannot be issued again", c.line);
    } else if (c.name != "returned") {
      return Error(BATON_VERSION, "a call that this devctl does not know", "replay with the devctl of the libbaton that recorded it");
    }
    return {};
  }

  Status open(const RecordedCall& c) {
    if (c.fields.at("result") != "OK") return {};  // nothing came of it
    const uint64_t id = c.fields.at("device");
    const std::string uri = uri_of(id, c.fields.at("driver"), c.fields.at("uri"), c.fields.at("emulated"));
    BATON_ASSIGN(Device d, c_.devices.open(uri));
    devices_[id] = {std::move(d), Queue()};
    uris[id] = uri;
    return {};
  }

  Status load(const RecordedCall& c) {
    const json& f = c.fields;
    std::vector<std::string> names;
    std::vector<baton_constant> constants;
    for (const json& k : f.at("constants")) names.push_back(k.at("name"));
    for (size_t i = 0; i < names.size(); ++i) {
      const std::string& bytes = contents(f.at("constants")[i], "holds");
      constants.push_back({names[i].c_str(), bytes.data(), bytes.size()});
    }
    const std::string& program = contents(f, "holds");
    Result<Program> p = devices_.at(f.at("device")).device.load({reinterpret_cast<const uint8_t*>(program.data()), program.size()}, constants,
                                                                f.at("lane"), f.at("rank"), f.at("ranks"));
    BATON_TRY(made(c, p));
    if (p) programs_[f.at("program")] = std::move(*p);
    return {};
  }

  Result<Buffer> host_buffer(uint64_t bytes, const std::string* contents) {
    BATON_ASSIGN(Buffer b, host_.alloc(std::max<uint64_t>(bytes, 1)));
    BATON_ASSIGN(void* p, b.map());
    if (contents) std::memcpy(p, contents->data(), std::min<uint64_t>(bytes, contents->size()));
    return b;
  }
  // Between memory of a device and host memory, at once.
  Status move(const Place& p, const Buffer& host, bool in) {
    const Memory& m = memory_.at(p.mem);
    OpenDevice& d = devices_.at(m.device);
    if (!d.side) {
      BATON_ASSIGN(d.side, d.device.queue(0));
    }
    BATON_ASSIGN(Timeline t, c_.devices.instance().timeline("replay"));
    Op op = in ? copy(host, 0, m.buffer, p.offset, p.bytes) : copy(m.buffer, p.offset, host, 0, p.bytes);
    BATON_TRY(d.side.submit(op.signal(t, 1)));
    return t.wait_until(1, deadline_in_ms(kPatienceMs));
  }
  // The recording knows what mapped memory held when an op read it.
  Status prepare(const json& source, uint64_t bytes) {
    if (!source.contains("holds")) return {};
    BATON_ASSIGN(Buffer b, host_buffer(bytes, &contents(source, "holds")));
    return move({source.at("mem"), source.at("offset"), bytes}, b, true);
  }
  Result<std::string> hash_at(const Issued& issued, const Place& p) {
    Buffer read;
    const Buffer* from = &issued.to;
    if (p.mem) {
      BATON_ASSIGN(read, host_buffer(p.bytes, nullptr));
      BATON_TRY(move(p, read, false));
      from = &read;
    }
    BATON_ASSIGN(void* at, from->map());
    return layers::hash_of(at, p.bytes);
  }

  Status submit(const RecordedCall& c) {
    const json& f = c.fields;
    OpenQueue& q = queues_.at(f.at("queue"));
    const std::string what = f.at("what");
    Issued issued;
    BATON_ASSIGN(issued.done, c_.devices.instance().timeline("op " + std::to_string(f.at("op").get<uint64_t>())));
    Op op;
    std::vector<std::string> names;
    std::vector<baton_binding> bindings;
    std::vector<int64_t> args;
    if (what == "COPY") {
      BATON_ASSIGN(op, copy_of(f, issued));
    } else if (what == "FILL") {
      const Place to{f.at("dst").at("mem"), f.at("dst").at("offset"), f.at("bytes")};
      op = fill(memory_.at(to.mem).buffer, to.offset, to.bytes, f.at("pattern"), f.at("pattern_bytes"));
      issued.results.push_back(to);
    } else if (what == "LAUNCH") {
      const json& list = f.at("bindings");
      for (const json& b : list) names.push_back(b.at("name"));
      for (size_t i = 0; i < list.size(); ++i) {
        const Place p{list[i].at("mem"), list[i].at("offset"), list[i].at("bytes")};
        BATON_TRY(prepare(list[i], p.bytes));
        bindings.push_back(bind(names[i].c_str(), memory_.at(p.mem).buffer, p.offset, p.bytes));
        issued.results.push_back(p);
      }
      args = f.at("args").get<std::vector<int64_t>>();
      op = launch(programs_.at(f.at("program")), bindings, args);
    }
    BATON_TRY(q.queue.submit(op.tagged(f.at("tag")).signal(issued.done, 1)));
    ++ops;
    issued_[f.at("op")] = std::move(issued);
    return {};
  }
  Result<Op> copy_of(const json& f, Issued& issued) {
    const uint64_t bytes = f.at("bytes");
    const json &src = f.at("src"), &dst = f.at("dst");
    if (src.contains("host")) {
      BATON_ASSIGN(issued.from, host_buffer(bytes, &contents(src, "host")));
    } else {
      BATON_TRY(prepare(src, bytes));
    }
    if (!dst.is_object()) {
      BATON_ASSIGN(issued.to, host_buffer(bytes, nullptr));
    }
    const Buffer& from = src.contains("host") ? issued.from : memory_.at(src.at("mem")).buffer;
    const Buffer& to = dst.is_object() ? memory_.at(dst.at("mem")).buffer : issued.to;
    const uint64_t at = dst.is_object() ? dst.at("offset").get<uint64_t>() : 0;
    issued.results.push_back({dst.is_object() ? dst.at("mem").get<uint64_t>() : 0, at, bytes});
    return copy(from, src.value("offset", uint64_t(0)), to, at, bytes);
  }

  Status complete(const RecordedCall& c) {
    const json& f = c.fields;
    auto it = issued_.find(f.at("op").get<uint64_t>());
    if (it == issued_.end()) return {};  // its queue was closed
    Status s = it->second.done.wait_until(1, deadline_in_ms(kPatienceMs));
    const std::string op = fmt::format("op {}", it->first), then = f.at("result"), now = baton_code_name(s.ok() ? BATON_OK : s.error().code);
    ++compared;
    differs(c.line, op, then, now);
    const json& holds = f.at("holds");
    for (size_t i = 0; s.ok() && i < holds.size() && i < it->second.results.size(); ++i) {
      auto hash = holds[i].is_string() ? hash_at(it->second, it->second.results[i]) : Result<std::string>(Error());
      if (!hash) {
        ++out_of_reach;
        continue;
      }
      ++compared;
      differs(c.line, op + " wrote", holds[i], *hash);
    }
    issued_.erase(it);
    return {};
  }

  const Context& c_;
  const ReplayCall& call_;
  const Recording& r_;
  std::string stopped_;
  Device host_;
  std::map<uint64_t, OpenDevice> devices_;
  std::map<uint64_t, Memory> memory_;
  std::map<uint64_t, Program> programs_;
  std::map<uint64_t, OpenQueue> queues_;
  std::map<uint64_t, Issued> issued_;
};

void print(const Context& c, const ReplayCall& call, const Replayer& r) {
  std::string text = fmt::format("{} calls and {} ops of {} again", r.calls, r.ops, clean(call.file));
  for (auto& [id, uri] : r.uris) text += fmt::format("\n  device {} on {}", id, clean(uri));
  text += fmt::format("\n{} results compared: {}\n", r.compared, r.differences.empty() ? "all equal" : fmt::format("{} differ", r.differences.size()));
  if (r.out_of_reach) text += fmt::format("{} results are out of reach, then or now\n", r.out_of_reach);
  if (!r.stopped().empty()) text += "stopped: " + r.stopped() + "\n";
  Table t({"LINE", "WHAT", "RECORDED", "REPLAYED"});
  for (size_t i = 0; i < std::min<size_t>(r.differences.size(), 20); ++i) {
    auto& d = r.differences[i];
    t.row({std::to_string(d.line), d.what, clean(d.recorded), d.replayed});
  }
  c.out.print(text + (r.differences.empty() ? "" : t.text()));
}

}  // namespace

int replay(const Context& c, const ReplayCall& call) {
  auto recording = read_recording(call.file);
  if (!recording) return c.out.fail(recording.error());
  Replayer r(c, call, *recording);
  Status s = r.run();
  if (interrupted()) return kInterrupted;
  if (!s.ok()) return c.out.fail(s.error());
  if (c.out.is_json()) {
    json differences = json::array(), devices = json::array();
    for (auto& d : r.differences) differences.push_back({{"line", d.line}, {"what", d.what}, {"recorded", d.recorded}, {"replayed", d.replayed}});
    for (auto& [id, uri] : r.uris) devices.push_back({{"device", id}, {"uri", uri}});
    c.out.document("replay", {{"file", call.file}, {"devices", devices}, {"calls", r.calls}, {"ops", r.ops}, {"compared", r.compared},
                              {"out_of_reach", r.out_of_reach}, {"stopped", r.stopped()}, {"differences", differences}});
  } else {
    print(c, call, r);
  }
  return r.differences.empty() ? kOk : kFinding;
}

}  // namespace baton::devctl
