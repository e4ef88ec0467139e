#include "drivers/neuron/memory.hpp"

#include "drivers/neuron/quirks.hpp"
#include "drivers/neuron/single_import.hpp"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace baton::neuron {
namespace {

// Slices are kept while launches come back to the same ranges; a caller that binds ever new ones gets a fresh start now and then.
constexpr size_t kSlicesKept = 256;

}  // namespace

Result<std::unique_ptr<Memory>> Memory::allocate(const Port& port, int32_t vnc, uint32_t heap, uint64_t bytes) {
  std::unique_ptr<Memory> m(new Memory(port, bytes));
  m->vnc_ = vnc;
  m->heap_ = heap;
  if (int32_t s = port.tensor_allocate(nrt::kPlacementDevice, vnc, bytes, "baton", &m->tensor_))
    return status_error(port, s, "nrt_tensor_allocate", "heap " + std::to_string(heap) + ", " + std::to_string(bytes) + " bytes");
  if (port.tensor_va) m->address_ = port.tensor_va(m->tensor_);
  return m;
}

Result<std::unique_ptr<Memory>> Memory::import(const Port& port, int fd, uint64_t offset, uint64_t bytes) {
  if (!port.tensor_empty || !port.tensor_attach)
    return Error(BATON_UNSUPPORTED, "this runtime cannot attach host memory to a tensor (nrt_tensor_attach_buffer)", "copy into a buffer of the device");
  struct stat st {};
  if (fstat(fd, &st)) return Error(BATON_IO, "descriptor " + std::to_string(fd) + ": " + std::strerror(errno), "pass the descriptor of an export");
  const uint64_t size = uint64_t(st.st_size);
  if (S_ISREG(st.st_mode) && (bytes > size || offset > size - bytes))  // a memory file: what lies beyond would be a SIGBUS, later
    return Error(BATON_INVALID_ARGUMENT,
                 std::to_string(bytes) + " bytes at offset " + std::to_string(offset) + " of a memory object of " + std::to_string(size) + " bytes",
                 "pass the offset that the export gave");
  if (!claim_import(fd))
    return Error(BATON_BUSY, "this export of device memory has its importer: a dma-buf of the neuron driver is for one", "export the buffer once for each importer");
  const uint64_t page = uint64_t(sysconf(_SC_PAGESIZE)), lead = offset % page;
  std::unique_ptr<Memory> m(new Memory(port, bytes));
  m->mapping_bytes_ = lead + bytes;
  m->mapping_ = mmap(nullptr, m->mapping_bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, fd, off_t(offset - lead));
  if (m->mapping_ == MAP_FAILED) {
    m->mapping_ = nullptr;
    return Error(BATON_IO, "mapping " + std::to_string(bytes) + " bytes at " + std::to_string(offset) + " of descriptor " + std::to_string(fd) + ": " +
                               std::strerror(errno), "export the buffer again; the range must lie in its memory object");
  }
  m->address_ = static_cast<uint8_t*>(m->mapping_) + lead;
  if (int32_t s = port.tensor_empty("baton import", &m->tensor_)) return status_error(port, s, "nrt_tensor_allocate_empty");
  if (int32_t s = port.tensor_attach(m->tensor_, m->address_, bytes)) return status_error(port, s, "nrt_tensor_attach_buffer");
  return m;
}

void Memory::drop() {
  for (auto& [range, slice] : slices_) port_.tensor_free(&slice);
  slices_.clear();
  if (tensor_) port_.tensor_free(&tensor_);
  tensor_ = nullptr;
  exported_.store(nullptr, std::memory_order_release);
  address_ = nullptr;
  if (mapping_) munmap(mapping_, mapping_bytes_);
  mapping_ = nullptr;
}

Memory::~Memory() { drop(); }

Result<nrt::Tensor*> Memory::range(uint64_t offset, uint64_t bytes) {
  if (offset == 0 && bytes == bytes_) return tensor_;
  if (auto it = slices_.find({offset, bytes}); it != slices_.end()) return it->second;
  if (slices_.size() >= kSlicesKept && users_ == 0) {
    for (auto& [range, slice] : slices_) port_.tensor_free(&slice);
    slices_.clear();
  }
  nrt::Tensor* slice = nullptr;
  if (int32_t s = port_.tensor_slice(tensor_, offset, bytes, "baton slice", &slice))
    return status_error(port_, s, "nrt_tensor_allocate_slice");
  slices_[{offset, bytes}] = slice;
  return slice;
}

// On hardware it is the fabric's: libnrt has no call for it, and a read by the NIC that wrote is what it takes (libfabric's efa provider).
Status Memory::fence(uint64_t offset, uint64_t bytes) const {
  const uint8_t* at = exported_.load(std::memory_order_acquire);
  if (!at || !port_.fence) return {};
  if (int32_t s = port_.fence(at + offset, bytes)) return status_error(port_, s, "fence");
  return {};
}

Result<Export> Memory::export_range() {
  Export x{-1, 0};
  uint64_t va = reinterpret_cast<uint64_t>(address_);
  if (mapping_) return Error(BATON_UNSUPPORTED, "imported memory is not this device's to export", "export it from the device that owns it");
  if (!address_)
    return Error(BATON_UNSUPPORTED, "the runtime gives no address for device memory (nrt_tensor_get_va)", "set env.NEURON_RT_MAP_HBM=1 in the URI");
  exported_.store(static_cast<const uint8_t*>(address_), std::memory_order_release);
  if (port_.dmabuf_fd_v2) {
    if (int32_t s = port_.dmabuf_fd_v2(va, bytes_, &x.fd, &x.offset)) return status_error(port_, s, "nrt_get_dmabuf_fd_v2");
    return x;
  }
  if (!port_.dmabuf_fd || va % kPageBytes)
    return Error(BATON_UNSUPPORTED, port_.dmabuf_fd ? "the memory is not page-aligned and the runtime has no nrt_get_dmabuf_fd_v2" : "the runtime has no nrt_get_dmabuf_fd",
                 "use a runtime of SDK 2.30 or later");
  if (int32_t s = port_.dmabuf_fd(va, bytes_, &x.fd)) return status_error(port_, s, "nrt_get_dmabuf_fd");
  return x;
}

}  // namespace baton::neuron
