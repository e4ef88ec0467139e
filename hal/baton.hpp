// baton.hpp: the C++20 layer over baton.h. Header-only, move-only RAII, no exceptions, no shared_ptr.
//
// What a call does, costs and fails with stands at the C function of the same name in baton.h; here is what C++ adds.
//
// Owner    A wrapper owns its handle. Buffers, programs, queues and devices may go in any order; the Instance goes last.
// Threads  As baton.h says: const member functions may be called by several threads, moving and destroying by one.
// Cost     The C call, inlined. What returns text or a list allocates it.
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

// A baton_error with its size set. Passed where the C call takes one: `Error e; if (baton_info(d, &i, &e)) return e;`
struct Error : baton_error {
  // No error yet: code OK, texts empty.
  Error() : baton_error{} { struct_size = sizeof(baton_error); }
  // A copy of what a C call filled.
  Error(const baton_error& e) : baton_error(e) {}
  // One of the caller's own; texts that are too long are cut.
  Error(int32_t c, std::string_view what_text, std::string_view next_text = {}, std::string_view device_uri = {}) : Error() {
    code = c;
    put(what, what_text);
    put(next, next_text);
    put(device, device_uri);
  }
  // Copies a text into one of the fixed arrays, cut to fit and terminated.
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

// A T, or the Error why there is none. Looking at the one that it is not is undefined: test first, or use BATON_ASSIGN.
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : v_(std::in_place_index<0>, std::move(value)) {}              // a success
  Result(Error error) : v_(std::in_place_index<1>, std::move(error)) {}          // a failure
  explicit operator bool() const { return v_.index() == 0; }                     // a success?
  bool ok() const { return v_.index() == 0; }                                    // a success?
  T& operator*() { return *std::get_if<0>(&v_); }                                // the value, if ok()
  const T& operator*() const { return *std::get_if<0>(&v_); }                    // the value, if ok()
  T* operator->() { return std::get_if<0>(&v_); }                                // the value, NULL if it is an error
  const T* operator->() const { return std::get_if<0>(&v_); }                    // the value, NULL if it is an error
  const Error& error() const { return *std::get_if<1>(&v_); }                    // the error, if not ok()

 private:
  std::variant<T, Error> v_;
};

// Done, or the Error why not.
class [[nodiscard]] Status {
 public:
  Status() = default;                             // done
  Status(Error error) : e_(std::move(error)) {}   // failed
  explicit operator bool() const { return !e_; }  // done?
  bool ok() const { return !e_; }                 // done?
  const Error& error() const { return *e_; }      // the error, if not ok()

 private:
  std::optional<Error> e_;
};

#define BATON_CAT2(a, b) a##b             // for BATON_ASSIGN
#define BATON_CAT(a, b) BATON_CAT2(a, b)  // for BATON_ASSIGN
// Returns the error of a Status or Result to the caller of this function, if there is one.
#define BATON_TRY(expr)                              \
  do {                                               \
    if (auto s_ = (expr); !s_.ok()) return s_.error(); \
  } while (0)
// For BATON_ASSIGN.
#define BATON_ASSIGN_(tmp, decl, expr) \
  auto tmp = (expr);                   \
  if (!tmp.ok()) return tmp.error();   \
  decl = std::move(*tmp)
// Declares `decl` with the value of a Result, or returns its error: `BATON_ASSIGN(auto in, baton::Instance::create());`
#define BATON_ASSIGN(decl, expr) BATON_ASSIGN_(BATON_CAT(r_, __COUNTER__), decl, expr)

// CLOCK_MONOTONIC in ns, the clock of every deadline.
inline uint64_t now_ns() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return uint64_t(t.tv_sec) * 1000000000ull + uint64_t(t.tv_nsec);
}
// The deadline that is `ms` milliseconds from now.
inline uint64_t deadline_in_ms(uint64_t ms) { return now_ns() + ms * 1000000ull; }

// A handle that is closed once, by the C function `Close`; empty after it was moved from. Closing an empty one does nothing, using one
// fails with INVALID_ARGUMENT.
template <class H, void (*Close)(H*)>
class Handle {
 public:
  Handle() = default;                                                // empty
  explicit Handle(H* h) : h_(h) {}                                   // takes a handle that a C call made
  Handle(Handle&& o) noexcept : h_(std::exchange(o.h_, nullptr)) {}  // leaves `o` empty
  // Closes what it holds, then takes over.
  Handle& operator=(Handle&& o) noexcept {
    if (this != &o) {
      reset();
      h_ = std::exchange(o.h_, nullptr);
    }
    return *this;
  }
  ~Handle() { reset(); }
  H* get() const { return h_; }                             // for C calls; borrowed
  explicit operator bool() const { return h_ != nullptr; }  // not empty?
  // Closes it now.
  void reset() {
    if (h_) Close(std::exchange(h_, nullptr));
  }

 protected:
  H* h_ = nullptr;  // NULL: empty
};

// ---- timelines ----

// A watermark and a failure; see baton_timeline_create.
//
//     BATON_ASSIGN(auto made, in.timeline("made"));
//     BATON_TRY(q.submit(baton::nop().signal(made, 1)));
//     if (auto s = made.wait_until(1, baton::deadline_in_ms(100)); !s.ok()) made.poison(s.error());
class Timeline : public Handle<baton_timeline, baton_timeline_destroy> {
 public:
  using Handle::Handle;  // empty, from a C handle, by move
  // baton_timeline_signal: raises the watermark.
  void signal(uint64_t value, uint64_t modelled_ns = 0) { baton_timeline_signal(h_, value, modelled_ns); }
  // baton_timeline_poison: fails it for good with the first cause.
  void poison(const Error& cause) { baton_timeline_poison(h_, &cause); }
  // baton_timeline_query: the watermark, or the poison. Does not poll.
  Result<uint64_t> value() const {
    Error e;
    uint64_t v = 0;
    if (baton_timeline_query(h_, &v, &e)) return e;
    return v;
  }
  // baton_timeline_modelled: when `value` was reached by the model, 0 if it was not.
  uint64_t modelled_ns(uint64_t value) const { return baton_timeline_modelled(h_, value); }
  // baton_timeline_wait: DEADLINE or the poison if it fails.
  Status wait_until(uint64_t value, uint64_t deadline_ns = BATON_NO_DEADLINE) const {
    Error e;
    if (baton_timeline_wait(h_, value, deadline_ns, &e)) return e;
    return {};
  }
};

// ---- buffers, programs ----

// Memory on one device; see baton_alloc.
class Buffer : public Handle<baton_buffer, baton_free> {
 public:
  using Handle::Handle;  // empty, from a C handle, by move
  uint64_t bytes() const { return baton_buffer_bytes(h_); }  // its length
  // baton_map: its host address, good until the buffer is freed. UNSUPPORTED if the heap is not mappable.
  Result<void*> map() const {
    Error e;
    void* p = nullptr;
    if (baton_map(h_, &p, &e)) return e;
    return p;
  }
  // Where another process finds the buffer.
  struct Export {
    int fd;           // the caller closes it
    uint64_t offset;  // of the buffer in it
  };
  // baton_export: a new descriptor each time. UNSUPPORTED if the heap is not exportable.
  Result<Export> export_fd() const {
    Error e;
    Export x{-1, 0};
    if (baton_export(h_, &x.fd, &x.offset, &e)) return e;
    return x;
  }
  // baton_fence: what others have written there through a descriptor, complete, is visible from here on.
  Status fence(uint64_t offset, uint64_t bytes) const {
    Error e;
    if (baton_fence(h_, offset, bytes, &e)) return e;
    return {};
  }
};

// A program on one lane of a device; see baton_load. Not baton::program::Program, which is its source.
class Program : public Handle<baton_program, baton_unload> {
 public:
  using Handle::Handle;  // empty, from a C handle, by move
};

// ---- ops ----

// A baton_op with wait() and signal(); at most two of each, a third replaces the second. Borrows every handle that it names until it is
// submitted; what a launch points to (bindings, args) too.
//
//     BATON_TRY(q.submit(baton::fill(buf, 0, 4096, 0).wait(made, 1).signal(done, 1).tagged(7)));
struct Op : baton_op {
  Op() : baton_op{} {}  // a NOP
  // Issued once `t` is at least `value`.
  Op& wait(const Timeline& t, uint64_t value) {
    baton_op::wait[baton_op::wait[0].timeline ? 1 : 0] = {t.get(), value};
    return *this;
  }
  // Raises `t` to `value` when complete, poisons it when failed.
  Op& signal(const Timeline& t, uint64_t value) {
    baton_op::signal[baton_op::signal[0].timeline ? 1 : 0] = {t.get(), value};
    return *this;
  }
  // The caller's number for it, shown in errors and spans.
  Op& tagged(uint32_t t) {
    tag = t;
    return *this;
  }
  // LAUNCH: raises `t` to base + k at the program's k-th mark.
  Op& progress(const Timeline& t, uint64_t base = 0) {
    u.launch.progress = t.get();
    u.launch.progress_base = base;
    return *this;
  }
};

inline Op nop() { return Op{}; }  // completes when its waits are met
// `bytes` from one buffer to another, on a queue of either's device or on a link between the two.
inline Op copy(const Buffer& src, uint64_t src_offset, const Buffer& dst, uint64_t dst_offset, uint64_t bytes) {
  Op o;
  o.opcode = BATON_OP_COPY;
  o.u.copy = {src.get(), dst.get(), src_offset, dst_offset, bytes};
  return o;
}
// Repeats the low `pattern_bytes` (1, 2, 4) bytes of `pattern`, on a queue of the buffer's device.
inline Op fill(const Buffer& dst, uint64_t offset, uint64_t bytes, uint32_t pattern, uint32_t pattern_bytes = 1) {
  Op o;
  o.opcode = BATON_OP_FILL;
  o.u.fill = {dst.get(), offset, bytes, pattern, pattern_bytes};
  return o;
}
// Calls fn(user) on the thread that polls; it must not block. `user` must live until then.
inline Op host(baton_host_fn fn, void* user) {
  Op o;
  o.opcode = BATON_OP_HOST;
  o.u.host = {fn, user};
  return o;
}
// A binding of a launch: `bytes` 0 is to the end of the buffer. `name` and `b` are borrowed until submit returns.
inline baton_binding bind(const char* name, const Buffer& b, uint64_t offset = 0, uint64_t bytes = 0) {
  return {name, b.get(), offset, bytes};
}
// Runs a program on a queue of its lane. `bindings` and `args` must live until submit returns.
inline Op launch(const Program& p, std::span<const baton_binding> bindings, std::span<const int64_t> args) {
  Op o;
  o.opcode = BATON_OP_LAUNCH;
  o.u.launch = {p.get(), bindings.data(), args.data(), nullptr, 0};
  o.binding_count = uint16_t(bindings.size());
  o.arg_count = uint16_t(args.size());
  return o;
}
// A floating-point argument of a launch (temperature, top_p) as its bits.
inline int64_t float_arg(double x) { return std::bit_cast<int64_t>(x); }

// Where ops are submitted: a lane (Device::queue), a link (Instance::link) or a session's.
class Queue : public Handle<baton_queue, baton_queue_close> {
 public:
  using Handle::Handle;  // empty, from a C handle, by move
  // baton_submit: all of the ops or, on error, none.
  Status submit(std::span<const Op> ops) const {
    Error e;
    if (baton_submit(h_, ops.data(), uint32_t(ops.size()), &e)) return e;
    return {};
  }
  // The same, written in place: `q.submit({a, b})`.
  Status submit(std::initializer_list<Op> ops) const { return submit(std::span<const Op>(ops.begin(), ops.size())); }
  // One op.
  Status submit(const Op& op) const { return submit(std::span<const Op>(&op, 1)); }
};
static_assert(sizeof(Op) == sizeof(baton_op));

// ---- devices, instance ----

using DeviceInfo = baton_device_info;  // plain data, as in C
using Telemetry = baton_telemetry;     // plain data, as in C

// An open device. What it made may outlive it: the device itself is closed with the last of them.
class Device : public Handle<baton_device, baton_close> {
 public:
  using Handle::Handle;  // empty, from a C handle, by move
  // baton_info: what it is and how full it is now.
  Result<DeviceInfo> info() const {
    Error e;
    DeviceInfo i{};
    i.struct_size = sizeof i;
    if (baton_info(h_, &i, &e)) return e;
    return i;
  }
  // baton_telemetry_read: its counters.
  Result<Telemetry> telemetry() const {
    Error e;
    Telemetry t{};
    t.struct_size = sizeof t;
    if (baton_telemetry_read(h_, &t, &e)) return e;
    return t;
  }
  // baton_reset: everything in flight fails, everything made before is stale. (reset() is Handle's: it closes the handle.)
  Status reset_device() const {
    Error e;
    if (baton_reset(h_, &e)) return e;
    return {};
  }
  // baton_alloc: undefined bytes. CAPACITY if the heap is full.
  Result<Buffer> alloc(uint64_t bytes, uint32_t heap = 0) const {
    Error e;
    baton_buffer* b = nullptr;
    if (baton_alloc(h_, heap, bytes, &b, &e)) return e;
    return Buffer(b);
  }
  // baton_import: memory that somebody exported, without a copy. `fd` stays the caller's.
  Result<Buffer> import_fd(int fd, uint64_t offset, uint64_t bytes) const {
    Error e;
    baton_buffer* b = nullptr;
    if (baton_import(h_, fd, offset, bytes, &b, &e)) return e;
    return Buffer(b);
  }
  // baton_load: a serialized program and its constants onto one lane. Blocks while the weights are packed.
  Result<Program> load(std::span<const uint8_t> program, std::span<const baton_constant> constants, uint32_t lane = 0,
                       uint32_t rank = 0, uint32_t ranks = 1) const {
    Error e;
    baton_program* p = nullptr;
    if (baton_load(h_, lane, program.data(), program.size(), constants.data(), uint32_t(constants.size()), rank, ranks, &p, &e))
      return e;
    return Program(p);
  }
  // baton_queue_open: a queue on one lane.
  Result<Queue> queue(uint32_t lane = 0) const {
    Error e;
    baton_queue* q = nullptr;
    if (baton_queue_open(h_, lane, &q, &e)) return e;
    return Queue(q);
  }
};

// The registry of devices, and the one that polls. Destroyed last: it ends what is left.
class Instance : public Handle<baton_instance, baton_instance_destroy> {
 public:
  using Handle::Handle;  // empty, from a C handle, by move
  // baton_instance_create: drivers and emulators are looked for where the options or the environment say.
  static Result<Instance> create(const baton_instance_options* options = nullptr) {
    Error e;
    baton_instance* i = nullptr;
    if (baton_instance_create(options, &i, &e)) return e;
    return Instance(i);
  }
  // baton_open: "host://", "neuron://0", "emu+cs3://0?threads=2".
  Result<Device> open(const std::string& uri) const {
    Error e;
    baton_device* d = nullptr;
    if (baton_open(h_, uri.c_str(), &d, &e)) return e;
    return Device(d);
  }
  // baton_enumerate: every device that an installed driver finds.
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
  // baton_timeline_create: a timeline at 0; the name is for errors.
  Result<Timeline> timeline(const std::string& name) const {
    Error e;
    baton_timeline* t = nullptr;
    if (baton_timeline_create(h_, name.c_str(), &t, &e)) return e;
    return Timeline(t);
  }
  // baton_link_open: a queue for COPY from one device to the other, over whatever path there is.
  Result<Queue> link(const Device& from, const Device& to) const {
    Error e;
    baton_queue* q = nullptr;
    if (baton_link_open(from.get(), to.get(), &q, &e)) return e;
    return Queue(q);
  }
  // baton_plan_copy: that path, one line each hop.
  Result<std::string> plan_copy(const Device& from, const Device& to) const {
    Error e;
    char text[1024];
    if (baton_plan_copy(from.get(), to.get(), text, sizeof text, &e)) return e;
    return std::string(text);
  }
  // baton_set_finding_callback: what the layer "validate" finds; NULL: nobody.
  Status on_finding(baton_finding_fn fn, void* user) const {
    Error e;
    if (baton_set_finding_callback(h_, fn, user, &e)) return e;
    return {};
  }
  // baton_stats_value: a word in this instance's statistics page, for other processes to see.
  uint64_t* stats_value(const std::string& name) const { return baton_stats_value(h_, name.c_str()); }
  // baton_stats_folder: where that page is.
  std::string stats_folder() const { return baton_stats_folder(h_); }
  // baton_poll: makes progress, never sleeps; returns how many events it handled.
  uint32_t poll(uint32_t budget = 64) const { return baton_poll(h_, budget); }
  // baton_poll_wait: sleeps until something was handled, or the deadline.
  uint32_t poll_wait(uint64_t deadline_ns) const { return baton_poll_wait(h_, deadline_ns); }
  // baton_instance_fd: for an event loop; the instance's, not to be closed.
  int fd() const { return baton_instance_fd(h_); }
};

}  // namespace baton
