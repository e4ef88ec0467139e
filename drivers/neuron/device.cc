#include "drivers/neuron/device.hpp"

#include "drivers/neuron/quirks.hpp"

#include <algorithm>
#include <cstring>

namespace baton::neuron {
namespace {

std::string gib(uint64_t bytes) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2f GiB", double(bytes) / double(1ull << 30));
  return text;
}

std::string short_uri(std::string_view uri) { return std::string(uri.substr(0, uri.find('?'))); }

}  // namespace

ChipShape chip_shape(const Machine& m, uint32_t chip) {
  const Family& f = family(m.family);
  ChipShape shape;
  shape.model = f.model;
  uint32_t per_chip = std::max(1u, f.physical_cores / m.lnc());
  for (uint32_t vnc = 0; vnc < m.cores.size(); ++vnc) {
    if (m.cores[vnc] / per_chip != chip) continue;
    uint32_t core = m.cores[vnc] % per_chip, sharers = std::max(1u, per_chip / f.hbm_stacks);
    Heap h{"", int32_t(vnc), f.hbm_bytes, 0};
    uint32_t hbm = core * f.hbm_stacks / per_chip;
    if (sharers > 1)
      std::snprintf(h.name, sizeof h.name, "hbm%u.%u", hbm, core % sharers);
    else
      std::snprintf(h.name, sizeof h.name, "hbm%u", hbm);
    shape.heaps.push_back(h);
    shape.lanes.push_back({uint32_t(shape.lanes.size()), int32_t(vnc), hbm, m.lnc()});
  }
  return shape;
}

void describe(const ChipShape& shape, const Machine& m, uint32_t chip, baton_device_info& out) {
  std::snprintf(out.uri, sizeof out.uri, "neuron://%u", chip);
  std::snprintf(out.name, sizeof out.name, "trn%u", chip);
  Error::put(out.model, shape.model);
  Error::put(out.driver, "neuron");
  Error::put(out.firmware, m.version);
  Error::put(out.timing, m.timing);
  out.emulated = m.emulated;
  out.modelled = !m.timing.empty();
  out.lanes = uint32_t(shape.lanes.size());
  out.heap_count = std::min<uint32_t>(uint32_t(shape.heaps.size()), BATON_MAX_HEAPS);
  out.numa_node = UINT32_MAX;
  if (chip < m.pci.size()) {
    Error::put(out.location, m.pci[chip].bdf);
    out.numa_node = m.pci[chip].numa_node;
  }
  for (uint32_t i = 0; i < out.heap_count; ++i) {
    Error::put(out.heaps[i].name, shape.heaps[i].name);
    out.heaps[i].bytes_total = shape.heaps[i].bytes;
  }
}

Result<std::unique_ptr<Device>> Device::open(const baton_driver_host& host, std::string_view uri) {
  BATON_ASSIGN(Options options, parse_uri(uri));
  BATON_ASSIGN(Lease lease, Lease::acquire(options));
  const Machine& m = lease.machine();
  ChipShape shape = chip_shape(m, options.chip);
  if (shape.lanes.empty()) {
    std::string there = options.chip < chip_count(m) ? "chip " + std::to_string(options.chip) + " has no core visible to this process"
                                                     : "there is no chip " + std::to_string(options.chip) + ": this machine has 0 to " +
                                                           std::to_string(chip_count(m) - 1);
    return Error(BATON_NOT_FOUND, there, "see devctl list and NEURON_RT_VISIBLE_CORES; an emulated machine has more chips with ?machine=trn2.48xlarge", short_uri(uri));
  }
  return std::unique_ptr<Device>(new Device(std::move(lease), host, uri, options, std::move(shape)));
}

Device::Device(Lease lease, const baton_driver_host& host, std::string_view uri, const Options& options, ChipShape shape)
    : lease_(std::move(lease)), shared_{lease_.port(), host_, short_uri(uri), Sysfs(options.sysfs.empty() ? sysfs_root() : options.sysfs), options.chip}, host_(host),
      shape_(std::move(shape)), models_(lease_.port(), options.artifacts.empty() ? artifacts_folder() : options.artifacts) {
  shared_.opened = shared_.sysfs.health(options.chip).value_or(Health{});
  if (!lease_.port().memory_stats) return;
  for (Heap& h : shape_.heaps) {
    nrt::MemoryStats stats{};
    size_t n = 0;
    if (lease_.port().memory_stats(uint32_t(h.vnc), &stats, sizeof stats, &n) == nrt::kSuccess && stats.bytes_limit) h.bytes = stats.bytes_limit;
  }
}

Device::~Device() {
  queues_.clear();
  for (LoadedProgram* p : programs_) delete p;
  for (Memory* m : memories_) delete m;
}

uint64_t Device::heap_used(const Heap& h) const {
  nrt::MemoryStats stats{};
  size_t n = 0;
  if (shared_.port.memory_stats && shared_.port.memory_stats(uint32_t(h.vnc), &stats, sizeof stats, &n) == nrt::kSuccess) return stats.bytes_used;
  return h.allocated;
}

void Device::info(baton_device_info& out) {
  describe(shape_, lease_.machine(), shared_.chip, out);
  out.epoch = epoch_;
  out.collectives = shared_.port.load_collectives != nullptr;
  out.progress = shared_.port.tensor_empty && shared_.port.tensor_attach;
  for (uint32_t i = 0; i < out.heap_count; ++i) {
    out.heaps[i].bytes_used = heap_used(shape_.heaps[i]);
    out.heaps[i].mappable = shared_.port.tensor_va != nullptr;
    out.heaps[i].exportable = out.heaps[i].mappable && (shared_.port.dmabuf_fd_v2 || shared_.port.dmabuf_fd);
  }
}

void Device::telemetry(baton_telemetry& out) const {
  const Counters& c = shared_.counters;
  out.ops_done = c.ops_done;
  out.ops_failed = c.ops_failed;
  out.launches = c.launches;
  out.bytes_in = c.bytes_in;
  out.bytes_out = c.bytes_out;
  out.busy_ns = c.busy_ns;
  out.modelled_ns = c.modelled_ns;
  const auto h = shared_.sysfs.health(shared_.chip);
  if (!h) return;
  out.health = h->ecc_uncorrected || !h->unhealthy.empty() ? BATON_HEALTH_DEGRADED : BATON_HEALTH_OK;
  out.instruments = BATON_INSTRUMENT_HW_ERRORS | (h->has_ecc ? BATON_INSTRUMENT_ECC : 0) | (h->has_power ? BATON_INSTRUMENT_POWER : 0);
  out.ecc_corrected = h->ecc_corrected;
  out.ecc_uncorrected = h->ecc_uncorrected;
  out.hw_errors = h->hw_errors;
  out.power_percent_x100 = uint32_t(h->power_percent * 100 + 0.5);
}

// The core has let go of everything in flight. Handles of the old epoch stay as shells until the core frees them.
Status Device::reset() {
  for (auto& q : queues_) q->stop();
  for (LoadedProgram* p : programs_) p->drop();
  for (Memory* m : memories_) m->drop();
  for (Heap& h : shape_.heaps) h.allocated = 0;
  Status restarted = lease_.restart(shared_.sysfs, shared_.chip);
  // With other devices on the same runtime, a reset is the release of all of this one's memory and programs; cores that the
  // runtime calls unrecoverable need the restart.
  if (!restarted.ok() && (restarted.error().code != BATON_BUSY || shared_.failing)) return restarted;
  shared_.failing = false;
  shared_.claimed = false;
  shared_.reported = false;
  ++epoch_;
  return {};
}

Result<Memory*> Device::alloc(uint32_t heap, uint64_t bytes) {
  if (heap >= shape_.heaps.size())
    return Error(BATON_INVALID_ARGUMENT, "heap " + std::to_string(heap) + " of " + std::to_string(shape_.heaps.size()), "heaps count from 0: one for each lane",
                 shared_.uri);
  Heap& h = shape_.heaps[heap];
  auto m = Memory::allocate(shared_.port, h.vnc, heap, bytes);
  if (!m.ok()) {
    Error e = m.error();
    if (e.code == BATON_CAPACITY)
      e = Error(BATON_CAPACITY, std::string(h.name) + ": " + gib(bytes) + " asked, " + gib(heap_used(h)) + " of " + gib(h.bytes) + " in use",
                "free buffers, unload programs, or use another heap and its lane");
    Error::put(e.device, shared_.uri);
    return e;
  }
  h.allocated += bytes;
  memories_.push_back(m->get());
  return m->release();
}

void Device::free(Memory* m) {
  std::erase(memories_, m);
  for (Heap& h : shape_.heaps)
    if (m->tensor() && m->vnc() == h.vnc) h.allocated -= std::min(h.allocated, m->bytes());
  if (m->orphan()) delete m;
}

Result<Memory*> Device::import(int fd, uint64_t offset, uint64_t bytes) {
  BATON_ASSIGN(auto m, Memory::import(shared_.port, fd, offset, bytes));
  memories_.push_back(m.get());
  return m.release();
}

Result<LoadedProgram*> Device::load(uint32_t lane, std::span<const uint8_t> program, std::span<const baton_constant> constants, uint32_t rank,
                                    uint32_t ranks) {
  if (lane >= shape_.lanes.size())
    return Error(BATON_INVALID_ARGUMENT, "lane " + std::to_string(lane) + " of " + std::to_string(shape_.lanes.size()), "lanes count from 0: one for each logical core",
                 shared_.uri);
  auto p = LoadedProgram::load(shared_.port, models_, shape_.lanes[lane], program, constants, rank, ranks);
  if (!p.ok()) {
    Error e = p.error();
    if (!e.device[0]) Error::put(e.device, shared_.uri);
    return e;
  }
  programs_.push_back(p->get());
  return p->release();
}

void Device::unload(LoadedProgram* p) {
  std::erase(programs_, p);
  if (p->orphan()) delete p;
}

Result<Queue*> Device::queue_open(uint32_t lane) {
  if (lane >= shape_.lanes.size())
    return Error(BATON_INVALID_ARGUMENT, "lane " + std::to_string(lane) + " of " + std::to_string(shape_.lanes.size()), "lanes count from 0", shared_.uri);
  BATON_ASSIGN(auto q, Queue::open(shared_, shape_.lanes[lane]));
  queues_.push_back(std::move(q));
  return queues_.back().get();
}

void Device::queue_close(Queue* q) {
  q->stop();
  std::erase_if(queues_, [&](const auto& each) { return each.get() == q; });
}

uint32_t Device::poll(Queue* q, uint32_t budget) {
  uint32_t n = q->poll(budget);
  if (shared_.failing.load(std::memory_order_acquire)) report_loss();
  return n;
}

// The core frees what ops use as soon as it hears of the loss, so it hears once no queue's thread runs anything.
void Device::report_loss() {
  if (shared_.reported) return;
  for (auto& q : queues_) q->cancel();
  if (!std::all_of(queues_.begin(), queues_.end(), [](const auto& q) { return q->idle(); })) return;
  shared_.reported = true;
  if (host_.lost) host_.lost(host_.core_device, &shared_.cause);
}

}  // namespace baton::neuron
