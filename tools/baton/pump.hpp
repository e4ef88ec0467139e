// pump.hpp: the one event loop: polls the Instance and steps the services that run in this process.
//
// Owner    borrows everything.   Threads  as the Instance.   Cost  a poll; sleeps at most 20 ms at a time, so that a signal is seen.
//
//     Pump pump(in);  pump.add(service);   while (!done()) pump.turn();
#pragma once

#include "tools/baton/service.hpp"

#include <functional>
#include <utility>
#include <vector>

namespace baton::runtime {

class Pump {
 public:
  explicit Pump(const Instance& in) : instance_(in) {}
  void add(Service& s) { services_.push_back(&s); }
  void each_turn(std::function<void()> f) { besides_ = std::move(f); }
  const Instance& instance() const { return instance_; }
  // Everything that is ready, without sleeping. True: something was.
  bool settle() {
    bool any = false;
    for (bool again = true; again;) {
      again = false;
      for (Service* s : services_) again |= s->step();
      any |= again;
    }
    return any;
  }
  void turn(uint64_t sleep_ms = 20) {
    instance_.poll_wait(deadline_in_ms(sleep_ms));
    settle();
    if (besides_) besides_();
  }

 private:
  const Instance& instance_;
  std::vector<Service*> services_;
  std::function<void()> besides_;
};

}  // namespace baton::runtime
