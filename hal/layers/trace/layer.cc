// layer.cc: trace=FILE: what each device queue did, on the wall clock and by the model, for Perfetto (ui.perfetto.dev).
//
// A lane each queue, and one for the calls (alloc, load, reset, ...) of a device. An op's span begins when the queue got it or when its
// previous one ended, whichever is later, and ends with its completion.
#include "hal/layers/argument.h"
#include "hal/layers/output_file.h"
#include "hal/layers/tap.h"
#include "hal/layers/trace/chrome_trace.h"

#include <algorithm>
#include <cstdio>
#include <mutex>

namespace baton::layers {
namespace {

constexpr int kWall = 1, kModelled = 2;
constexpr size_t kFlushBytes = 256 << 10;

double us(uint64_t ns, uint64_t zero = 0) { return (double(ns) - double(zero)) / 1e3; }

// One file, written by all devices of the instance.
class Trace {
 public:
  explicit Trace(OutputFile file) : file_(std::move(file)) {
    events_.process(kWall, "wall");
    events_.process(kModelled, "modelled");
    file_.append(ChromeTrace::kHead);
    flush();
  }
  ~Trace() { flush(); }
  template <class F>
  void with(F f) {
    std::lock_guard lock(mu_);
    f(events_);
    if (events_.bytes() >= kFlushBytes) flush();
  }
  void flush_now() {
    std::lock_guard lock(mu_);
    flush();
  }
  const uint64_t zero = now_ns();

 private:
  void flush() { file_.append(events_.take(), ChromeTrace::kTail); }
  std::mutex mu_;
  OutputFile file_;
  ChromeTrace events_;
};

class Traced : public Tap {
 public:
  Traced(Trace& t, const baton_driver_host* host, const char* address) : Tap(host, address), trace_(t), shown_(uri.substr(0, uri.find('?'))) {}
  ~Traced() override { trace_.flush_now(); }
  void call(const char* name, uint64_t began, int32_t code) {
    char args[64];
    std::snprintf(args, sizeof args, "\"result\":\"%s\"", baton_code_name(code));
    const uint64_t end = now_ns();
    trace_.with([&](ChromeTrace& t) { t.span(kWall, t.lane(kWall, shown_ + " calls"), name, us(began, trace_.zero), us(end - began), args); });
  }

 private:
  std::string name_of(const Queue& q) const {
    return shown_ + " lane " + std::to_string(q.lane) + (q.number > 1 ? " queue " + std::to_string(q.number) : "");
  }
  void sending(Op& op, const baton_driver_op&) override { op.id = now_ns(); }
  void completed(Op& op, uint64_t cost_ns, const baton_error* error) override {
    Queue& q = *op.queue;
    const uint64_t end = now_ns(), begin = std::min(end, std::max(op.id, q.id));  // q.id: when its previous op ended
    q.id = end;
    char args[96];
    std::snprintf(args, sizeof args, "\"tag\":%u,\"bytes\":%llu,\"result\":\"%s\"", op.tag, static_cast<unsigned long long>(op.bytes),
                  baton_code_name(error ? error->code : BATON_OK));
    trace_.with([&](ChromeTrace& t) {
      const std::string lane = name_of(q);
      t.span(kWall, t.lane(kWall, lane), opcode_name(op.opcode), us(begin, trace_.zero), us(end - begin), args);
      if (!error && cost_ns) t.span(kModelled, t.lane(kModelled, lane), opcode_name(op.opcode), us(op.start_ns), us(cost_ns), args);
    });
    pass(op, cost_ns, error);
  }
  void marked(Op& op, uint64_t k, uint64_t offset_ns) override {
    const uint64_t now = now_ns();
    trace_.with([&](ChromeTrace& t) {
      const std::string lane = name_of(*op.queue), name = "mark " + std::to_string(k);
      t.mark(kWall, t.lane(kWall, lane), name, us(now, trace_.zero));
      if (offset_ns) t.mark(kModelled, t.lane(kModelled, lane), name, us(std::max(op.start_ns, op.queue->end_ns) + offset_ns));
    });
  }
  void was_reset(int32_t code) override { call("reset", now_ns(), code); }
  void was_lost(const baton_error*) override {
    trace_.with([&](ChromeTrace& t) { t.mark(kWall, t.lane(kWall, shown_ + " calls"), "lost", us(now_ns(), trace_.zero)); });
  }
  Trace& trace_;
  const std::string shown_;
};

Traced* self(void* device) { return static_cast<Traced*>(Tap::of(device)); }

template <size_t N>
struct Name {
  char text[N];
  constexpr Name(const char (&t)[N]) { std::copy(t, t + N, text); }
};

// A slot that passes the call on, and puts its time and result into the trace.
template <Name N, auto Slot>
constexpr auto timed() {
  return []<class... A>(int32_t (*baton_driver::*)(void*, A...)) {
    return +[](void* device, A... a) -> int32_t {
      Traced* d = self(device);
      const uint64_t began = now_ns();
      const int32_t code = (d->next->*Slot)(d->device, a...);
      d->call(N.text, began, code);
      return code;
    };
  }(Slot);
}

baton_driver slots() {
  using D = baton_driver;
  D t = Tap::slots();
  t.alloc = timed<"alloc", &D::alloc>();
  t.export_buffer = timed<"export", &D::export_buffer>();
  t.import_buffer = timed<"import", &D::import_buffer>();
  t.load = timed<"load", &D::load>();
  return t;
}
const baton_driver kSlots = slots();

Result<Trace*> create(const char* argument) {
  BATON_ASSIGN(Argument a, parse_argument(argument, {}));
  BATON_ASSIGN(OutputFile file, OutputFile::open(a.main));
  return new Trace(std::move(file));
}

}  // namespace
}  // namespace baton::layers

extern "C" __attribute__((visibility("default"))) const baton_layer* baton_layer_v1() {
  using namespace baton::layers;
  static const baton_layer layer = {
      .struct_size = sizeof(baton_layer),
      .abi_version = BATON_ABI_VERSION,
      .name = "trace",
      .description = "writes what each queue did as a Chrome/Perfetto trace",
      .create =
          [](const char* argument, void** out, baton_error* e) {
            auto t = create(argument);
            if (!t) return *e = t.error(), e->code;
            *out = *t;
            return int32_t(BATON_OK);
          },
      .destroy = [](void* l) { delete static_cast<Trace*>(l); },
      .attach =
          [](void* l, const baton_driver_host* host, const char* uri, baton_layered** out, baton_error*) {
            *out = new Traced(*static_cast<Trace*>(l), host, uri);
            return int32_t(BATON_OK);
          },
      .detach = [](baton_layered* d) { delete self(d); },
      .slots = &kSlots,
  };
  return &layer;
}
