// baton.hpp: the C++20 layer over baton.h. Header-only, move-only RAII, no exceptions, no shared_ptr.
//
// Owner    A wrapper owns its handle. Destroy in reverse order of making; the Instance outlives everything.
// Threads  As baton.h says. A wrapper itself is not for several threads at once.
// Errors   Result<T> and Status carry an Error (code, what, next). BATON_TRY returns it to the caller.
//
//     BATON_ASSIGN(auto in, baton::Instance::create());
//     BATON_ASSIGN(auto dev, in.open("emu+neuron://0"));
//     BATON_ASSIGN(auto q, dev.queue(0));
//     BATON_TRY(q.submit({baton::fill(buf, 0, 4096, 0).signal(done, 1)}));
//     BATON_TRY(done.wait_until(1, baton::deadline_in_ms(100)));
#pragma once

#include "hal/baton.h"

#include <time.h>

#include <bit>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace baton {

// ---- errors ----

struct Error : baton_error {
  Error() : baton_error{} { struct_size = sizeof(baton_error); }
  Error(const baton_error& e) : baton_error(e) {}
  Error(int32_t c, std::string_view what_text, std::string_view next_text = {}, std::string_view device_uri = {}) : Error() {
    code = c;
    put(what, what_text);
    put(next, next_text);
    put(device, device_uri);
  }
  template <size_t N>
  static void put(char (&to)[N], std::string_view from) {
    size_t n = from.size() < N - 1 ? from.size() : N - 1;
    if (n) std::memcpy(to, from.data(), n);  // an empty view may hold no address
    to[n] = 0;
  }
  // "DEVICE_LOST neuron://0: what" without the next step.
  std::string text() const {
    std::string s = baton_code_name(code);
    if (device[0]) s += std::string(" ") + device;
    s += std::string(": ") + what;
    if (hop[0]) s += std::string(" (hop: ") + hop + ")";
    return s;
  }
};

template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : v_(std::in_place_index<0>, std::move(value)) {}
  Result(Error error) : v_(std::in_place_index<1>, std::move(error)) {}
  explicit operator bool() const { return v_.index() == 0; }
  bool ok() const { return v_.index() == 0; }
  T& operator*() { return *std::get_if<0>(&v_); }
  const T& operator*() const { return *std::get_if<0>(&v_); }
  T* operator->() { return std::get_if<0>(&v_); }
  const T* operator->() const { return std::get_if<0>(&v_); }
  const Error& error() const { return *std::get_if<1>(&v_); }

 private:
  std::variant<T, Error> v_;
};

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Error error) : e_(std::move(error)) {}
  explicit operator bool() const { return !e_; }
  bool ok() const { return !e_; }
  const Error& error() const { return *e_; }

 private:
  std::optional<Error> e_;
};

#define BATON_CAT2(a, b) a##b
#define BATON_CAT(a, b) BATON_CAT2(a, b)
#define BATON_TRY(expr)                              \
  do {                                               \
    if (auto s_ = (expr); !s_.ok()) return s_.error(); \
  } while (0)
#define BATON_ASSIGN_(tmp, decl, expr) \
  auto tmp = (expr);                   \
  if (!tmp.ok()) return tmp.error();   \
  decl = std::move(*tmp)
#define BATON_ASSIGN(decl, expr) BATON_ASSIGN_(BATON_CAT(r_, __COUNTER__), decl, expr)

inline uint64_t now_ns() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return uint64_t(t.tv_sec) * 1000000000ull + uint64_t(t.tv_nsec);
}
inline uint64_t deadline_in_ms(uint64_t ms) { return now_ns() + ms * 1000000ull; }

// A handle that is closed once. `Close` is the C function.
template <class H, void (*Close)(H*)>
class Handle {
 public:
  Handle() = default;
  explicit Handle(H* h) : h_(h) {}
  Handle(Handle&& o) noexcept : h_(std::exchange(o.h_, nullptr)) {}
  Handle& operator=(Handle&& o) noexcept {
    if (this != &o) {
      reset();
      h_ = std::exchange(o.h_, nullptr);
    }
    return *this;
  }
  ~Handle() { reset(); }
  H* get() const { return h_; }
  explicit operator bool() const { return h_ != nullptr; }
  void reset() {
    if (h_) Close(std::exchange(h_, nullptr));
  }

 protected:
  H* h_ = nullptr;
};

// ---- timelines ----

class Timeline : public Handle<baton_timeline, baton_timeline_destroy> {
 public:
  using Handle::Handle;
  void signal(uint64_t value, uint64_t modelled_ns = 0) { baton_timeline_signal(h_, value, modelled_ns); }
  void poison(const Error& cause) { baton_timeline_poison(h_, &cause); }
  Result<uint64_t> value() const {
    Error e;
    uint64_t v = 0;
    if (baton_timeline_query(h_, &v, &e)) return e;
    return v;
  }
  uint64_t modelled_ns(uint64_t value) const { return baton_timeline_modelled(h_, value); }
  Status wait_until(uint64_t value, uint64_t deadline_ns = BATON_NO_DEADLINE) const {
    Error e;
    if (baton_timeline_wait(h_, value, deadline_ns, &e)) return e;
    return {};
  }
};

// ---- buffers, programs ----

class Buffer : public Handle<baton_buffer, baton_free> {
 public:
  using Handle::Handle;
  uint64_t bytes() const { return baton_buffer_bytes(h_); }
  Result<void*> map() const {
    Error e;
    void* p = nullptr;
    if (baton_map(h_, &p, &e)) return e;
    return p;
  }
  struct Export {
    int fd; // the caller closes it
    uint64_t offset;
  };
  Result<Export> export_fd() const {
    Error e;
    Export x{-1, 0};
    if (baton_export(h_, &x.fd, &x.offset, &e)) return e;
    return x;
  }
};

class Program : public Handle<baton_program, baton_unload> {
 public:
  using Handle::Handle;
};

// ---- ops ----

// A baton_op with wait() and signal(); at most two of each.
struct Op : baton_op {
  Op() : baton_op{} {}
  Op& wait(const Timeline& t, uint64_t value) {
    baton_op::wait[baton_op::wait[0].timeline ? 1 : 0] = {t.get(), value};
    return *this;
  }
  Op& signal(const Timeline& t, uint64_t value) {
    baton_op::signal[baton_op::signal[0].timeline ? 1 : 0] = {t.get(), value};
    return *this;
  }
  Op& tagged(uint32_t t) {
    tag = t;
    return *this;
  }
  Op& progress(const Timeline& t, uint64_t base = 0) { // LAUNCH
    u.launch.progress = t.get();
    u.launch.progress_base = base;
    return *this;
  }
};

inline Op nop() { return Op{}; }
inline Op copy(const Buffer& src, uint64_t src_offset, const Buffer& dst, uint64_t dst_offset, uint64_t bytes) {
  Op o;
  o.opcode = BATON_OP_COPY;
  o.u.copy = {src.get(), dst.get(), src_offset, dst_offset, bytes};
  return o;
}
inline Op fill(const Buffer& dst, uint64_t offset, uint64_t bytes, uint32_t pattern, uint32_t pattern_bytes = 1) {
  Op o;
  o.opcode = BATON_OP_FILL;
  o.u.fill = {dst.get(), offset, bytes, pattern, pattern_bytes};
  return o;
}
inline Op host(baton_host_fn fn, void* user) {
  Op o;
  o.opcode = BATON_OP_HOST;
  o.u.host = {fn, user};
  return o;
}
inline baton_binding bind(const char* name, const Buffer& b, uint64_t offset = 0, uint64_t bytes = 0) {
  return {name, b.get(), offset, bytes};
}
// `bindings` and `args` must live until submit returns.
inline Op launch(const Program& p, std::span<const baton_binding> bindings, std::span<const int64_t> args) {
  Op o;
  o.opcode = BATON_OP_LAUNCH;
  o.u.launch = {p.get(), bindings.data(), args.data(), nullptr, 0};
  o.binding_count = uint16_t(bindings.size());
  o.arg_count = uint16_t(args.size());
  return o;
}
inline int64_t float_arg(double x) { return std::bit_cast<int64_t>(x); }

class Queue : public Handle<baton_queue, baton_queue_close> {
 public:
  using Handle::Handle;
  Status submit(std::span<const Op> ops) const {
    Error e;
    if (baton_submit(h_, ops.data(), uint32_t(ops.size()), &e)) return e;
    return {};
  }
  Status submit(std::initializer_list<Op> ops) const { return submit(std::span<const Op>(ops.begin(), ops.size())); }
  Status submit(const Op& op) const { return submit(std::span<const Op>(&op, 1)); }
};
static_assert(sizeof(Op) == sizeof(baton_op));

// ---- devices, instance ----

using DeviceInfo = baton_device_info;
using Telemetry = baton_telemetry;

class Device : public Handle<baton_device, baton_close> {
 public:
  using Handle::Handle;
  Result<DeviceInfo> info() const {
    Error e;
    DeviceInfo i{};
    i.struct_size = sizeof i;
    if (baton_info(h_, &i, &e)) return e;
    return i;
  }
  Result<Telemetry> telemetry() const {
    Error e;
    Telemetry t{};
    t.struct_size = sizeof t;
    if (baton_telemetry_read(h_, &t, &e)) return e;
    return t;
  }
  Status reset_device() const {
    Error e;
    if (baton_reset(h_, &e)) return e;
    return {};
  }
  Result<Buffer> alloc(uint64_t bytes, uint32_t heap = 0) const {
    Error e;
    baton_buffer* b = nullptr;
    if (baton_alloc(h_, heap, bytes, &b, &e)) return e;
    return Buffer(b);
  }
  Result<Buffer> import_fd(int fd, uint64_t offset, uint64_t bytes) const {
    Error e;
    baton_buffer* b = nullptr;
    if (baton_import(h_, fd, offset, bytes, &b, &e)) return e;
    return Buffer(b);
  }
  Result<Program> load(std::span<const uint8_t> program, std::span<const baton_constant> constants, uint32_t lane = 0,
                       uint32_t rank = 0, uint32_t ranks = 1) const {
    Error e;
    baton_program* p = nullptr;
    if (baton_load(h_, lane, program.data(), program.size(), constants.data(), uint32_t(constants.size()), rank, ranks, &p, &e))
      return e;
    return Program(p);
  }
  Result<Queue> queue(uint32_t lane = 0) const {
    Error e;
    baton_queue* q = nullptr;
    if (baton_queue_open(h_, lane, &q, &e)) return e;
    return Queue(q);
  }
};

class Instance : public Handle<baton_instance, baton_instance_destroy> {
 public:
  using Handle::Handle;
  static Result<Instance> create(const baton_instance_options* options = nullptr) {
    Error e;
    baton_instance* i = nullptr;
    if (baton_instance_create(options, &i, &e)) return e;
    return Instance(i);
  }
  Result<Device> open(const std::string& uri) const {
    Error e;
    baton_device* d = nullptr;
    if (baton_open(h_, uri.c_str(), &d, &e)) return e;
    return Device(d);
  }
  Result<std::vector<DeviceInfo>> enumerate() const {
    Error e;
    std::vector<DeviceInfo> all;
    auto add = [](void* u, const baton_device_info* i) {
      static_cast<std::vector<DeviceInfo>*>(u)->push_back(*i);
      return 0;
    };
    if (baton_enumerate(h_, add, &all, &e)) return e;
    return all;
  }
  Result<Timeline> timeline(const std::string& name) const {
    Error e;
    baton_timeline* t = nullptr;
    if (baton_timeline_create(h_, name.c_str(), &t, &e)) return e;
    return Timeline(t);
  }
  Result<Queue> link(const Device& from, const Device& to) const {
    Error e;
    baton_queue* q = nullptr;
    if (baton_link_open(from.get(), to.get(), &q, &e)) return e;
    return Queue(q);
  }
  Result<std::string> plan_copy(const Device& from, const Device& to) const {
    Error e;
    char text[1024];
    if (baton_plan_copy(from.get(), to.get(), text, sizeof text, &e)) return e;
    return std::string(text);
  }
  uint32_t poll(uint32_t budget = 64) const { return baton_poll(h_, budget); }
  uint32_t poll_wait(uint64_t deadline_ns) const { return baton_poll_wait(h_, deadline_ns); }
  int fd() const { return baton_instance_fd(h_); }
};

}  // namespace baton
