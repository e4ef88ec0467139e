#include "tests/cts/launch.h"

namespace baton::cts {

Result<baton::Program> try_load(Fixture& f, std::span<const uint8_t> program, const Weights& weights, uint32_t lane, uint32_t rank, uint32_t ranks) {
  std::vector<Bytes> data;
  std::vector<baton_constant> constants;
  for (const auto& [name, t] : weights) data.push_back(to_bytes(t.data, t.dtype));
  size_t i = 0;
  for (const auto& [name, t] : weights) {
    constants.push_back({name.c_str(), data[i].data(), data[i].size()});
    ++i;
  }
  return f.device.load(program, constants, lane, rank, ranks);
}

baton::Program load(Fixture& f, const program::Program& p, const Weights& w, uint32_t lane, uint32_t rank, uint32_t ranks) {
  return must(try_load(f, program::serialize(p), w, lane, rank, ranks));
}

Values::Values(Fixture& f, const std::map<std::string, Bytes>& values, uint32_t lane) : f_(f) {
  for (const auto& [name, bytes] : values) {
    const uint64_t offset = f.rng() % 5 * 64;  // as parts of a larger allocation
    auto [it, fresh] = places_.emplace(name, Place{f.alloc(offset + bytes.size(), f.heap_of(lane)), offset, bytes.size()});
    f.write(it->second.buffer, offset, bytes);
    list_.push_back(bind(it->first.c_str(), it->second.buffer, offset, f.rng() % 2 ? bytes.size() : 0));
  }
}

Bytes Values::bytes(const std::string& name) const {
  const Place& p = places_.at(name);
  return f_.read(p.buffer, p.offset, p.bytes);
}

Status run(Fixture& f, const baton::Program& p, const Values& values, const std::vector<int64_t>& args, uint32_t lane) {
  Queue q = f.queue(lane);
  Timeline done = f.timeline("launched");
  BATON_TRY(q.submit(launch(p, values.bindings(), args).signal(done, 1)));
  return done.wait_until(1, soon());
}

}  // namespace baton::cts
