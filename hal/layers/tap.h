// tap.h: a device through which every op passes with a cookie of the layer's, so that its completion and marks pass by too.
//
// Derive from it, override what is of interest, and put its slots in the layer's table. The defaults hand everything on unchanged.
//
// Owner    the core, by attach and detach.   Threads  as the device's slots.
// Cost     a copy of the op, a record taken and given back, one indirect call each way.   Errors  what is below says.
//
//     struct Count : Tap { using Tap::Tap; void completed(Op& op, uint64_t cost, const baton_error* e) override { ++n; pass(op, cost, e); } };
//     const baton_driver kSlots = Tap::slots();
#pragma once

#include "hal/layers/cookies.h"
#include "hal/layers/held.h"

#include <memory>
#include <string>
#include <vector>

namespace baton::layers {

class Tap : public baton_layered {
 public:
  struct Queue {
    Tap* tap = nullptr;
    uint32_t lane = 0;
    uint32_t number = 0;  // of the device's queues, from 1
    void* below = nullptr;
    std::unique_ptr<Held> held;  // if the layer holds completions
    uint64_t end_ns = 0;         // modelled end of the latest op, as the core counts it
    uint64_t id = 0;             // the layer's own: a lane of a trace, a number in a recording
  };
  struct Op : Cookied<Op> {
    Queue* queue = nullptr;
    void* up = nullptr;  // the cookie given to us
    uint8_t opcode = 0;
    uint32_t tag = 0;
    uint64_t bytes = 0;       // COPY, FILL
    uint64_t start_ns = 0;    // modelled, as the core knew it when it issued the op
    uint64_t id = 0;          // the layer's own: when it was sent, a number in a recording
  };

  Tap(const baton_driver_host* up, const char* uri, bool holds = false);
  virtual ~Tap() = default;
  Tap(const Tap&) = delete;
  static Tap* of(void* device) { return static_cast<Tap*>(static_cast<baton_layered*>(device)); }
  static baton_driver slots();  // reset and the four of queues

 protected:
  // Before ops are handed on, in order; then how many were taken of them. All but those come again.
  virtual void sending(Op&, const baton_driver_op&) {}
  virtual void sent(Queue&, Op* const*, uint32_t /*count*/, uint32_t /*taken*/, int32_t /*code*/) {}
  virtual void completed(Op& op, uint64_t cost_ns, const baton_error* error) { pass(op, cost_ns, error); }
  virtual void marked(Op&, uint64_t /*k*/, uint64_t /*offset_ns*/) {}
  virtual void opened(Queue&) {}
  virtual void closed(Queue&) {}
  virtual void was_reset(int32_t /*code*/) {}
  virtual void was_lost(const baton_error*) {}
  // Up to whoever is above. The op's record is over before: complete() may bring the next op.
  void pass(Op& op, uint64_t cost_ns, const baton_error* error) { up->complete(op.up, cost_ns, error); }

  const baton_driver_host* const up;
  const std::string uri;

 private:
  static void on_complete(void* cookie, uint64_t cost_ns, const baton_error* error);
  static int32_t on_progress(void* cookie, uint64_t k, uint64_t offset_ns);
  static void on_lost(void* tap, const baton_error* error);
  int32_t reset(baton_error* e);
  int32_t open_queue(uint32_t lane, void** out, int* fd, baton_error* e);
  void close_queue(Queue*);
  int32_t submit(Queue&, const baton_driver_op*, uint32_t count, uint32_t* taken, baton_error* e);
  uint32_t poll(Queue&, uint32_t budget);

  baton_driver_host services_;
  const bool holds_;
  uint32_t opened_ = 0;
  Cookies<Op> ops_;
  std::vector<std::unique_ptr<Queue>> queues_;
  std::vector<baton_driver_op> batch_;
  std::vector<Op*> sent_;
};

const char* opcode_name(uint8_t opcode);

}  // namespace baton::layers
