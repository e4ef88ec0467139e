// kv_place.hpp (internal): a pool of KV on any device, and where this process, and so a fabric, reaches its bytes: the pool itself, where its heap is mappable
// and exportable, else host memory beside it with copies between, as baton's decode engine has it.
//
// Owner    a KvPlace owns device, pool and stage.   Threads  as the Instance.   Cost  twice the pool at most; a copy is one op a segment.
// Errors   the device's; CAPACITY where the pool does not fit.
//
//     BATON_ASSIGN(KvPlace p, KvPlace::open(in, "cs3://10.0.0.5:9000"));   BATON_TRY(p.fill(shape, table, salt));
#pragma once

#include "transport/bench/kv_shapes.hpp"

namespace baton::transport {

class KvPlace {
 public:
  static Result<KvPlace> open(const Instance&, const std::string& uri);
  const Buffer& reach() const { return stage_ ? stage_ : pool_; }
  bool staged() const { return bool(stage_); }
  bool modelled() const { return modelled_; }
  uint8_t* base() const { return base_; } // of reach()
  const Device& device() const { return device_; }
  const Buffer& pool() const { return pool_; }
  // The blocks of a table, between the stage and the device; nothing where there is no stage. Once `after` is at 1, if it is given.
  Status to_device(const Shape& s, const std::vector<int32_t>& table, const Timeline* after = nullptr) { return move(s, table, up_, stage_, pool_, after); }
  Status to_stage(const Shape& s, const std::vector<int32_t>& table) { return move(s, table, down_, pool_, stage_, nullptr); }
  double copied_modelled_ns() const { return copied_modelled_ns_; } // of the last of these; 0 if it moved nothing
  // Of the device's memory, whatever the stage holds.
  Status fill(const Shape&, const std::vector<int32_t>& table, uint64_t salt);
  Result<uint64_t> wrong(const Shape&, const std::vector<int32_t>& table, uint64_t salt);

 private:
  Status move(const Shape&, const std::vector<int32_t>& table, const Queue&, const Buffer& from, const Buffer& to, const Timeline* after);
  Device host_, device_;
  Buffer pool_, stage_;
  Queue up_, down_;
  Timeline done_;
  uint64_t value_ = 0;
  uint8_t* base_ = nullptr;
  bool modelled_ = false;
  double copied_modelled_ns_ = 0;
};

}  // namespace baton::transport
