// ofi_port.hpp (internal to ofi): libfabric objects as owned values: a domain, and an endpoint with its queue and address vector.
//
// Owner    whoever holds the unique_ptr; a port before its domain.   Threads  as the Instance.   Cost  opening: about a millisecond.
// Errors   every libfabric failure as UNSUPPORTED (at start) or IO, with its text.
#pragma once

#include "transport/ofi_library.hpp"
#include "transport/stream.hpp"

#include <rdma/fabric.h>
#include <rdma/fi_cm.h>
#include <rdma/fi_domain.h>
#include <rdma/fi_endpoint.h>
#include <rdma/fi_errno.h>
#include <rdma/fi_rma.h>

namespace baton::transport {

template <class T>
struct FidClose {
  void operator()(T* f) const {
    if (f) fi_close(&f->fid);
  }
};
template <class T>
using Fid = std::unique_ptr<T, FidClose<T>>;
struct InfoFree {
  void operator()(fi_info* i) const { // somebody has loaded the library to make it
    if (auto ofi = ofi_library()) (*ofi)->freeinfo(i);
  }
};
using Info = std::unique_ptr<fi_info, InfoFree>;

Error fi_error(std::string_view what, ssize_t rc);
struct OfiPlace { // "": any
  std::string host, device; // numeric local address; the RDMA device, where the provider has no addresses (efa)
};
Result<Info> ofi_info(const char* provider, const OfiPlace&);

class OfiDomain final : public Attachment {
 public:
  static Result<OfiDomain*> of(Endpoint::Impl&, const std::string& fabric, const OfiPlace&);
  Result<fid_mr*> source(const SourceMemory&); // kept until forget(), or until other memory lies there
  void forget(const void* base) { sources_.erase(base); }
  Result<Fid<fid_mr>> target(const LandingMemory&);

  Info info;
  Fid<fid_fabric> fabric;
  Fid<fid_domain> domain;
  bool device_memory = false; // the provider has FI_HMEM, and it was wished for

 private:
  struct Memory { // to be registered
    const void* base;
    uint64_t bytes;
    int fd;
    uint64_t fd_offset;
  };
  Result<Fid<fid_mr>> reg(const Memory&, uint64_t access, const char* what_for);
  struct Source {
    SourceKey key;
    uint64_t bytes = 0;
    Fid<fid_mr> mr;
  };
  std::multimap<const void*, Source> sources_;
};

class OfiPort {
 public:
  // `name` names the endpoint where the provider has names (shm).
  static Result<std::unique_ptr<OfiPort>> open(OfiDomain&, const std::string& name);
  ~OfiPort();
  Result<std::vector<uint8_t>> address();
  Result<fi_addr_t> insert(std::span<const uint8_t> address);
  Status post_receives();
  // Reads what has completed. Notes received are appended; batches' counters go down. False: the port is broken (error()).
  bool progress(std::vector<Note>* notes, uint32_t* events);
  // One write whose completion means that it is visible at the far side. libfabric's result; the caller counts it in `outstanding` if it is 0.
  ssize_t write(const void* from, uint64_t bytes, void* desc, fi_addr_t to, uint64_t remote, uint64_t key, StreamPosted*);
  const std::optional<Error>& error() const { return error_; }
  int wait_fd() const { return wait_fd_; }
  fid_ep* ep() const { return ep_.get(); }
  size_t window() const { return window_; }
  size_t segments_per_write() const { return per_write_; }
  uint32_t outstanding = 0; // writes posted, not complete

 private:
  explicit OfiPort(OfiDomain& d) : domain_(d) {}
  void take(const fi_cq_msg_entry&, std::vector<Note>*);
  void take_error();
  Status repost(size_t i);
  static constexpr size_t kReceives = 64;

  OfiDomain& domain_;
  Fid<fid_cq> cq_;
  Fid<fid_av> av_;
  Fid<fid_ep> ep_;
  Fd lock_; // on the provider's file
  std::string file_;
  int wait_fd_ = -1;
  bool enabled_ = false;
  size_t window_ = 0, per_write_ = 1;
  std::vector<Note> receives_;
  std::optional<Error> error_;
};

// Removes what crashed processes of this user have left in /dev/shm; only names that OfiPort gives.
void sweep_stale_shm();
// Removes the files of one session.
void sweep_session_shm(const std::string& prefix);
std::string shm_prefix(const Session::Impl&);

}  // namespace baton::transport
