#include "emulators/cs3/wafer.h"

#include "drivers/cs3/link/socket.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <cerrno>
#include <utility>
#include <vector>

namespace baton::cs3 {

std::string gigabytes(uint64_t bytes) {
  if (bytes >= 100'000'000) return fmt::format("{:.1f} GB", double(bytes) / 1e9);
  if (bytes >= 100'000) return fmt::format("{:.1f} MB", double(bytes) / 1e6);
  return fmt::format("{} bytes", bytes);
}

static uint64_t round_up(uint64_t bytes) { return (bytes + kGranule - 1) / kGranule * kGranule; }

Result<Wafer> Wafer::create(uint64_t capacity, timing::WaferModel* cost, uint32_t fabric_width, uint32_t fabric_height) {
  Wafer w;
  BATON_ASSIGN(w.data_, wafer_data("cs3"));
  if (fabric_width) {
    BATON_ASSIGN(w.data_, resized(w.data_, fabric_width, fabric_height));
  }
  BATON_ASSIGN(w.data_, with_sram(w.data_, capacity));
  w.capacity_ = capacity;
  w.span_ = round_up(capacity);
  w.cost_ = cost;
  void* p = ::mmap(nullptr, w.span_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) {
    Error e = io_error("reserving " + gigabytes(capacity) + " of address space for SRAM", errno);
    Error::put(e.next, "lower --sram-gb, or allow overcommit (vm.overcommit_memory 0 or 1; ulimit -v)");
    return e;
  }
  w.base_ = static_cast<uint8_t*>(p);
  w.holes_[0] = w.span_;
  return w;
}

Wafer::Wafer(Wafer&& o) noexcept
    : counters(o.counters),
      capacity_(o.capacity_),
      span_(o.span_),
      base_(std::exchange(o.base_, nullptr)),
      weights_(o.weights_),
      buffers_(o.buffers_),
      epoch_(o.epoch_),
      next_handle_(o.next_handle_),
      blocks_(std::move(o.blocks_)),
      holes_(std::move(o.holes_)),
      cost_(o.cost_),
      data_(std::move(o.data_)) {}

Wafer::~Wafer() {
  if (base_) ::munmap(base_, span_);
}

Error Wafer::full(const std::string& what, uint64_t bytes) const {
  return Error(BATON_CAPACITY,
               fmt::format("{} of {} + weights {} + buffers {} is over the {} of SRAM", what, gigabytes(bytes), gigabytes(weights_),
                           gigabytes(buffers_), gigabytes(capacity_)),
               "shorten the context, keep fewer sequences, spill KV to host memory, take more wafers (devctl place), or start the daemon with a larger --sram-gb");
}

Result<const Block*> Wafer::alloc(uint64_t session, uint64_t bytes) {
  if (bytes == 0) return Error(BATON_INVALID_ARGUMENT, "an allocation of 0 bytes", "ask for at least 1");
  if (bytes > capacity_ || round_up(bytes) > capacity_ - std::min(capacity_, used())) return full("a buffer", bytes);
  const uint64_t need = round_up(bytes);
  uint64_t largest = 0;
  for (auto hole = holes_.begin(); hole != holes_.end(); ++hole) {
    largest = std::max(largest, hole->second);
    if (hole->second < need) continue;
    const uint64_t address = hole->first, left = hole->second - need;
    holes_.erase(hole);
    if (left) holes_[address + need] = left;
    buffers_ += need;
    while (next_handle_ == 0 || blocks_.count(next_handle_)) ++next_handle_;
    const uint32_t handle = next_handle_++;
    return &(blocks_[handle] = Block{handle, session, address, bytes});
  }
  return Error(BATON_CAPACITY,
               fmt::format("a buffer of {}: {} of SRAM are free, but the largest hole has {}", gigabytes(bytes), gigabytes(capacity_ - used()),
                           gigabytes(largest)),
               "free buffers beside each other, or allocate the large ones first");
}

void Wafer::release(const Block& b) {
  const uint64_t bytes = round_up(b.bytes);
  ::madvise(base_ + b.address, bytes, MADV_DONTNEED);
  buffers_ -= bytes;
  uint64_t begin = b.address, end = b.address + bytes;
  auto after = holes_.lower_bound(begin);
  if (after != holes_.end() && after->first == end) {
    end += after->second;
    after = holes_.erase(after);
  }
  if (after != holes_.begin()) {
    const auto before = std::prev(after);
    if (before->first + before->second == begin) {
      begin = before->first;
      holes_.erase(before);
    }
  }
  holes_[begin] = end - begin;
}

Status Wafer::free(uint64_t session, uint32_t handle) {
  const auto found = blocks_.find(handle);
  if (found == blocks_.end() || found->second.session != session)
    return Error(BATON_INVALID_ARGUMENT, fmt::format("there is no buffer {}", handle), "free each buffer once");
  if (found->second.in_use) return Error(BATON_BUSY, fmt::format("buffer {} is bound to a running launch", handle), "wait for the launch, or cancel it");
  release(found->second);
  blocks_.erase(found);
  return {};
}

Result<uint8_t*> Wafer::range(uint64_t session, uint32_t handle, uint64_t address, uint64_t bytes) {
  const auto found = blocks_.find(handle);
  if (found == blocks_.end() || found->second.session != session)
    return Error(BATON_INVALID_ARGUMENT, fmt::format("there is no buffer {}", handle), "it was freed, or never allocated by this client");
  const Block& b = found->second;
  if (address < b.address || address - b.address > b.bytes || bytes > b.bytes - (address - b.address))
    return Error(BATON_INVALID_ARGUMENT,
                 fmt::format("{} bytes at sram address {} lie outside of buffer {} ({} bytes at {})", bytes, address, handle, b.bytes, b.address),
                 "keep offset + bytes within the buffer");
  return base_ + address;
}

void Wafer::use(uint32_t handle, int by) {
  if (const auto found = blocks_.find(handle); found != blocks_.end()) found->second.in_use += by;
}

Status Wafer::charge(uint64_t bytes, const std::string& program) {
  if (bytes > capacity_ - std::min(capacity_, used())) return full("'" + program + "'", bytes);
  weights_ += bytes;
  return {};
}

void Wafer::free_session(uint64_t session) {
  for (auto b = blocks_.begin(); b != blocks_.end();) {
    if (b->second.session == session) {
      release(b->second);
      b = blocks_.erase(b);
    } else {
      ++b;
    }
  }
}

}  // namespace baton::cs3
