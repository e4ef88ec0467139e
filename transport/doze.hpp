// doze.hpp (internal): when a reader of shared memory says that it may be asleep, so that the writer wakes it with a system call.
//
// One that polls again within 25 us spins: waking it would cost both sides a call and gain nothing. If it does go to sleep after such a poll, a
// timer of the endpoint has it poll once more, 50 us later, and then it says so.
//
// Owner    the reader.   Threads  as the endpoint.   Cost  a comparison; a timerfd_settime each 50 us while it spins.   Errors  none.
//
//     doze.look(now_ns());   if (nothing_new && !parked && doze.may_park(ep)) parked = true;   // then look once more
#pragma once

#include "transport/endpoint.hpp"

namespace baton::transport {

class Doze {
 public:
  // Each look, whatever it finds.
  void look(uint64_t now) { idle_ = now - std::exchange(looked_ns_, now) >= kSpinNs; }
  // At the end of a look by one that is not parked. True: it found nothing and may sleep now; it is to say so, and look once more. False: it is woken for
  // one more look.
  bool may_park(Endpoint::Impl& ep, bool found = false) {
    if (!found && idle_) return true;
    if (looked_ns_ >= again_ns_) {
      again_ns_ = looked_ns_ + kLookNs;
      ep.look_again(kLookNs);
    }
    return false;
  }

 private:
  static constexpr uint64_t kSpinNs = 25'000, kLookNs = 50'000;
  uint64_t looked_ns_ = 0, again_ns_ = 0;
  bool idle_ = false;
};

}  // namespace baton::transport
