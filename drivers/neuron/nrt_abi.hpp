// nrt_abi.hpp: the public Neuron runtime ABI (libnrt.so.1) that Baton uses, restated from public documentation as types and prototypes.
//
// The driver takes the prototypes by decltype and finds each symbol by dlsym; the emulator defines them. Numbers and layouts: SDK
// documentation and the published declarations at SDK 2.32 docs / 2.28 headers, unless a line names another source. Sizes of
// structs were measured on x86-64. Functions marked (experimental) are so in the SDK; those marked (undeclared) are in no SDK
// header and are known from libfabric's use alone.
//
// Owner    none: declarations.   Threads  libnrt is process-global; calls on distinct objects may run in parallel.
// Errors   every call returns a status; 0 is success.
#pragma once

#include <cstddef>
#include <cstdint>

namespace baton::nrt {

// ---- status ----

inline constexpr int32_t kSuccess = 0;
inline constexpr int32_t kFailure = 1;
inline constexpr int32_t kInvalid = 2;
inline constexpr int32_t kInvalidHandle = 3;
inline constexpr int32_t kResource = 4;
inline constexpr int32_t kTimeout = 5;
inline constexpr int32_t kHwError = 6;
inline constexpr int32_t kQueueFull = 7;
inline constexpr int32_t kLoadNotEnoughNc = 9;
inline constexpr int32_t kUnsupportedNeffVersion = 10;
inline constexpr int32_t kFailHostMemAlloc = 11;
inline constexpr int32_t kUninitialized = 13;
inline constexpr int32_t kClosed = 14;
inline constexpr int32_t kQueueEmpty = 15;
inline constexpr int32_t kExecUnitUnrecoverable = 101;
inline constexpr int32_t kExecBadInput = 1002;
inline constexpr int32_t kExecCompletedWithNumErr = 1003;
inline constexpr int32_t kExecCompletedWithErr = 1004;
inline constexpr int32_t kExecNcBusy = 1005;
inline constexpr int32_t kExecOob = 1006;
inline constexpr int32_t kCollPending = 1100;
inline constexpr int32_t kExecHwErrCollectives = 1200;
inline constexpr int32_t kExecHwErrHbmUe = 1201;
inline constexpr int32_t kExecHwErrNcUe = 1202;
inline constexpr int32_t kExecHwErrDmaAbort = 1203;
inline constexpr int32_t kExecSwNqOverflow = 1204;
inline constexpr int32_t kExecHwErrRepairableHbmUe = 1205;
inline constexpr int32_t kNetworkProxyFailure = 1206;

// ---- enums, as the int32 that the ABI passes ----

inline constexpr int32_t kPlacementDevice = 0;
inline constexpr int32_t kPlacementHost = 1;     // deprecated; under 4 MiB
inline constexpr int32_t kPlacementVirtual = 2;  // removed in SDK 2.30

inline constexpr int32_t kFrameworkNone = 1;

inline constexpr uint32_t kFamilyTrn1 = 2, kFamilyTrn1n = 3, kFamilyInf2 = 4, kFamilyTrn2 = 5, kFamilyTrn2n = 6;
inline constexpr uint32_t kFamilyTrn2p = 8, kFamilyTrn2u = 9, kFamilyTrn2e = 10, kFamilyTrn2eu = 11, kFamilyTrn2ac = 12;
inline constexpr uint32_t kFamilyTrn2uac = 13, kFamilyTrn3 = 14, kFamilyTrn3pds98 = 15;

inline constexpr uint32_t kSize48xl = 7, kSize3xl = 8, kSizeUnknown = 9;

inline constexpr int32_t kDtypeUint64 = 1, kDtypeBf16 = 6, kDtypeFp16 = 7, kDtypeInt32 = 8, kDtypeFp32 = 0xA, kDtypeInt64 = 0xC;

inline constexpr int32_t kUsageInput = 0, kUsageOutput = 1;

// ---- structs ----

struct Tensor;  // opaque to callers
struct Model;   // opaque to callers

struct Version {
  uint64_t major, minor, patch, maintenance;
  char detail[128];
  char git_hash[64];
};
static_assert(sizeof(Version) == 224);

struct InstanceInfo {
  uint32_t family, size;
  char arch_name[16];
  char device_revision[8];
};
static_assert(sizeof(InstanceInfo) == 32);

struct TensorInfo {
  char name[256];
  int32_t usage;
  size_t size;
  int32_t dtype;
  uint32_t* shape;
  uint32_t ndim;
};
static_assert(sizeof(TensorInfo) == 296);

struct TensorInfoArray {
  uint64_t count;
  TensorInfo entries[1];  // a flexible array of `count`
};

struct AllocationInfo {
  uint64_t physical_address;
  size_t size;
  int32_t hbm_index;
};
static_assert(sizeof(AllocationInfo) == 24);

struct MemoryStats {
  size_t bytes_used, bytes_limit;
};
static_assert(sizeof(MemoryStats) == 16);

struct ModelInfo {
  uint32_t vnc;
};
static_assert(sizeof(ModelInfo) == 4);

struct BatchOp {
  uint64_t offset, size;
  void* buffer;
};
struct Batch {
  Tensor* tensor;
  const BatchOp* ops;
  uint32_t op_count;
};
static_assert(sizeof(BatchOp) == 24 && sizeof(Batch) == 24);

// Visible to whoever defines them, whatever the build hides by default.
#pragma GCC visibility push(default)
extern "C" {

// ---- lifecycle. init takes the visible cores for this process until close or exit ----
int32_t nrt_init(int32_t framework, const char* framework_version, const char* fal_version);
void nrt_close();
int32_t nrt_get_version(Version*, size_t bytes);
int32_t nrt_get_instance_info(InstanceInfo*, size_t bytes);
const char* nrt_get_status_as_str(int32_t status);  // declared, but not known to be exported by every release

// ---- topology. Callable before init ----
int32_t nrt_get_total_nc_count(uint32_t*);
int32_t nrt_get_total_vnc_count(uint32_t*);
int32_t nrt_get_visible_nc_count(uint32_t*);
int32_t nrt_get_visible_vnc_count(uint32_t*);
// length: in, with the NUL; out, without. kResource if short. SDK 2.29
int32_t nrt_get_attached_efa_bdf(const void* va, char* bdf, size_t* length);
int32_t nrt_host_device_id_get(int32_t device, uint32_t* host_device);
int32_t nrt_host_device_id_rid_map_get(uint32_t* count, uint32_t* map);

// ---- models. vnc is process-relative: the first core that this process owns is 0; -1: any ----
int32_t nrt_load(const void* neff, size_t bytes, int32_t vnc, int32_t vnc_count, Model**);
int32_t nrt_load_collectives(const void* neff, size_t bytes, int32_t vnc, int32_t vnc_count, uint32_t rank, uint32_t ranks, Model**);
int32_t nrt_unload(Model*);
int32_t nrt_get_model_nc_count(const Model*, uint32_t*);
int32_t nrt_get_model_vnc_count(const Model*, uint32_t*);
int32_t nrt_get_model_tensor_info(Model*, TensorInfoArray**);  // (experimental)
int32_t nrt_free_model_tensor_info(TensorInfoArray*);          // (experimental)
int32_t nrt_get_model_instance_count(Model*, uint32_t*);       // (experimental)
int32_t nrt_get_model_info(const Model*, ModelInfo*, size_t bytes_in, size_t* bytes_out);  // (experimental)
int32_t nrt_execute(Model*, const void* inputs, void* outputs);
int32_t nrt_execute_repeat(Model*, const void* inputs, void* outputs, int32_t repeat);
int32_t nrt_register_async_exec_callback(void* callback, void* parameters);  // (experimental); the mode is gone since SDK 2.32
int32_t nrt_async_drain_queued_execs(uint32_t vnc);                          // (experimental)

// ---- tensors ----
int32_t nrt_tensor_allocate(int32_t placement, int32_t vnc, size_t bytes, const char* name, Tensor**);
void nrt_tensor_free(Tensor**);  // and sets it to NULL
int32_t nrt_tensor_allocate_empty(const char* name, Tensor**);
int32_t nrt_tensor_attach_buffer(Tensor*, void* buffer, size_t bytes);
int32_t nrt_tensor_allocate_slice(const Tensor* source, size_t offset, size_t bytes, const char* name, Tensor**);
int32_t nrt_tensor_read(const Tensor*, void* buffer, size_t offset, size_t bytes);
int32_t nrt_tensor_write(Tensor*, const void* buffer, size_t offset, size_t bytes);
int32_t nrt_tensor_read_batch(const Batch*, uint64_t count, bool unsafe);
int32_t nrt_tensor_write_batch(const Batch*, uint64_t count, bool unsafe);
// Device to device only on one core.
int32_t nrt_tensor_copy(const Tensor* source, size_t source_offset, Tensor* to, size_t to_offset, size_t bytes);
// Not the vendor's: an emulator's alone. Modelled device time, in ns, of this thread's latest call that moved bytes (read, write, copy, memset).
uint64_t baton_emu_cost_ns(void);
// Nor this. What a NIC's small read from the range does on hardware: whatever others have written through a dma-buf is visible to the device.
int32_t baton_emu_fence(const void* va, uint64_t bytes);

int32_t nrt_tensor_memset(Tensor*, uint64_t offset, int32_t value, size_t bytes);
size_t nrt_tensor_get_size(const Tensor*);
void* nrt_tensor_get_va(const Tensor*);  // may be NULL
int32_t nrt_tensor_get_device_allocation_info(const Tensor*, AllocationInfo*);
// Until the tensor was an output of `count` executions since it was reset. -1: for ever.
int32_t nrt_tensor_check_output_completion(const Tensor*, int64_t timeout_us, uint64_t count);
int32_t nrt_tensor_reset_output_completion(Tensor*);

// ---- tensor sets: an opaque void ----
int32_t nrt_allocate_tensor_set(void**);
void nrt_destroy_tensor_set(void**);
int32_t nrt_add_tensor_to_tensor_set(void* set, const char* name, Tensor*);  // add or replace
int32_t nrt_get_tensor_from_tensor_set(void* set, const char* name, Tensor**);

// ---- memory export ----
int32_t nrt_get_dmabuf_fd(uint64_t va, uint64_t bytes, int32_t* fd);                       // cannot describe an unaligned va
int32_t nrt_get_dmabuf_fd_v2(uint64_t va, uint64_t bytes, int32_t* fd, uint64_t* offset);  // (undeclared)
int32_t nrt_get_hbm_mmap_va(int32_t device, int32_t hbm, void** va, size_t* bytes);        // kInvalidHandle: no more HBMs
int32_t nrt_memcpy_to_device(void* va, const void* source, size_t bytes);                  // (experimental)
int32_t nrt_get_vnc_memory_stats(uint32_t vnc, MemoryStats*, size_t bytes_in, size_t* bytes_out);  // (experimental)

// ---- collectives of the host ----
int32_t nrt_build_global_comm(int32_t vnc, uint32_t rank, uint32_t ranks);
int32_t nrt_cc_global_comm_init(uint32_t vnc, uint32_t rank, uint32_t ranks);
void* nrt_get_libnccl_net(int32_t* error, char* message, size_t bytes);  // (experimental)
int32_t nrt_barrier(int32_t vnc, uint32_t rank, uint32_t ranks);                                              // (experimental)
int32_t nrt_all_gather(int32_t vnc, uint32_t rank, uint32_t ranks, uint32_t bytes, const void* in, void* out);  // (experimental)
}
#pragma GCC visibility pop

}  // namespace baton::nrt
