#include "tools/devctl/topo_cost.h"

#include "tools/devctl/bench.h"

#include <fmt/format.h>

#include <algorithm>

namespace baton::devctl {
namespace {

constexpr uint64_t kSmall = 4 << 10, kLarge = 4 << 20;
constexpr uint32_t kRounds = 9;
constexpr uint64_t kBudgetNs = 100'000'000;  // for each size, after the second round

struct Sized {
  Times wall, modelled;
};

Result<Sized> copies(const Queue& queue, const Buffer& src, const Buffer& dst, uint64_t bytes, const Timeline& done, uint64_t& value) {
  Sized s;
  const uint64_t enough = now_ns() + kBudgetNs;
  for (uint32_t i = 0; i <= kRounds && (i < 2 || now_ns() < enough); ++i) {  // the first one warms up
    const uint64_t before = done.modelled_ns(value), start = now_ns();
    BATON_TRY(queue.submit(copy(src, 0, dst, 0, bytes).signal(done, value + 1)));
    BATON_TRY(await(done, ++value));
    if (i == 0) continue;
    s.wall.ns.push_back(double(now_ns() - start));
    s.modelled.ns.push_back(double(done.modelled_ns(value)) - double(before));
  }
  return s;
}

json rates(const Times& small, const Times& large) { return {{"small_ns", small.median()}, {"bytes_per_s", double(kLarge) / large.median() * 1e9}}; }

// The memory that others reach by a host address, as the planner of copies takes it: the first such heap, else the first heap.
struct Reach {
  std::string heap;
  bool mappable = false, exportable = false;
};

Reach reach(const json& d) {
  Reach r;
  for (auto& h : d.at("heaps")) {
    if (!r.heap.empty() && (r.mappable || !h.at("mappable"))) continue;
    r = {clean(h.at("name").get<std::string>()), h.at("mappable"), h.at("exportable")};
  }
  return r;
}

bool is(const json& d, const char* driver) { return d.at("driver") == driver; }

// Why no device moves the bytes past the host.
std::string peer_lacks(const json& from, const json& to, const std::string& a, const std::string& b, bool rdma) {
  for (auto& [d, name] : {std::pair(&from, &a), {&to, &b}})
    if (is(*d, "cs3")) return fmt::format("no documented way lets a NIC or another device reach a CS-3's memory: bytes pass the host of {}, by the wafer link", *name);
  for (auto& [d, name] : {std::pair(&from, &a), {&to, &b}})
    if (!reach(*d).exportable) return fmt::format("{} does not export its memory ({}), so that no other device may be given it", *name, reach(*d).heap);
  return rdma ? "a copy is one process's: RDMA moves a KV-cache between two processes, and 'devctl fabric ping' measures it"
              : "no RDMA device is here, and none is asked to move bytes within one process";
}

}  // namespace

Result<json> hop_cost(const Instance& in, const Device& from, const Device& to) {
  const bool same = from.get() == to.get();
  BATON_ASSIGN(Buffer src, from.alloc(kLarge));
  BATON_ASSIGN(Buffer dst, to.alloc(kLarge));
  BATON_ASSIGN(Timeline done, in.timeline("topo"));
  BATON_ASSIGN(Queue fills, from.queue(0));
  uint64_t value = 1;
  BATON_TRY(fills.submit(fill(src, 0, kLarge, 0x5a).signal(done, value)));
  BATON_TRY(await(done, value));
  BATON_ASSIGN(Queue queue, same ? from.queue(0) : in.link(from, to));
  BATON_ASSIGN(Sized small, copies(queue, src, dst, kSmall, done, value));
  BATON_ASSIGN(Sized large, copies(queue, src, dst, kLarge, done, value));
  const bool modelled = large.modelled.median() > 0;
  return json{{"small_bytes", kSmall}, {"large_bytes", kLarge}, {"wall", rates(small.wall, large.wall)}, {"modelled", modelled ? rates(small.modelled, large.modelled) : json(nullptr)}};
}

json better_paths(const std::string& path, const json& from, const json& to, bool rdma) {
  json all = json::array();
  const bool same = from == to;
  if (path == "direct" && same) return all;
  const Reach a = reach(from), b = reach(to);
  const bool alike = label(from) == label(to);  // two daemons' first wafers
  const std::string one = alike ? clean(from.at("uri").get<std::string>()) : label(from), other = alike ? clean(to.at("uri").get<std::string>()) : label(to);
  auto add = [&](const char* name, const std::string& why) { all.push_back({{"path", name}, {"why_not", why}}); };
  add("direct", fmt::format("{} and {} are two memories; one driver's op moves within one", one, other));
  if (!is(from, "host") && !is(to, "host")) add("peer to peer", peer_lacks(from, to, one, other, rdma));
  if (path == "imported") return all;
  // The side that has a host address is the one that would be handed over.
  const Reach& given = a.mappable ? a : b;
  const bool reached = a.mappable || b.mappable;
  if (!reached) add("imported", fmt::format("neither memory can be handed over: {} of {} and {} of {} have no host address", a.heap, one, b.heap, other));
  else if (!given.exportable) add("imported", fmt::format("{} of {} has no descriptor that another driver could import", given.heap, a.mappable ? one : other));
  if (path == "staged") add("mapped", fmt::format("neither {} of {} nor {} of {} has a host address, so that each driver moves its own hop", a.heap, one, b.heap, other));
  return all;
}

}  // namespace baton::devctl
