// fault.h: a device below the fault layer with a plan of its own, and what a process holds, for leaks.
//
// Owner    the case; the plan's file is gone with the rig.   Threads  one (it sets BATON_LAYERS while its instance is made).
// Cost     an instance and an open, which starts the device's emulator anew; the fixture's own device is closed before.
// Errors   must(): the case fails and ends.
//
//     Faulty d(f, R"({"rules": [{"op": "FILL", "nth": 2, "action": "fail", "code": "IO"}]})");
//     Timeline t = d.submit(d.op(BATON_OP_FILL, 0));    // tag 0
//     EXPECT_CODE(t.wait_until(1, soon()), BATON_IO);
#pragma once

#include "tests/cts/fixture.h"

#include <string>

namespace baton::cts {

struct Holding {
  int descriptors = 0, shared_mappings = 0;
  bool operator==(const Holding&) const = default;
};
Holding holding();
std::ostream& operator<<(std::ostream&, const Holding&);

// A plan's pattern for the device under test, not for the rig's side.
std::string device_of(const Fixture&);

class Faulty {
 public:
  static constexpr uint64_t kBytes = 4096;
  Faulty(Fixture& f, const std::string& plan, bool open = true);
  ~Faulty();
  // Memory, a queue, a program: anew after a reset too.
  void equip();
  // One op of each kind, on the rig's memory. The COPY goes from the device to `plain`.
  Op op(uint8_t opcode, uint32_t tag);
  Timeline submit(Op op);  // raised to 1
  // Every kind of op arrives, and moves the bytes it should.
  void expect_usable();
  Result<Program> load() const;

  Instance in;
  const std::string uri;
  Device device, host;  // host: the far side of copies, of which plans say nothing (device_of)
  Buffer memory, plain;
  Program program;
  Queue queue;
  uint8_t* bytes = nullptr;  // of plain

 private:
  char path_[40] = "/tmp/baton-cts-fault-XXXXXX";
  std::vector<uint8_t> code_;
  std::vector<float> weights_;
  std::vector<baton_binding> bindings_;
};

}  // namespace baton::cts
