// hold.h: being inside the core: the instance's lock, and care for what others submit meanwhile.
//
// A submit does not wait for another thread. If nobody is inside it goes in and runs its ops; else it posts a copy (inbox.h), and whoever
// is inside takes it in, at the latest on the way out: nothing posted is left behind. (It waits after all for a copy between devices,
// about which drivers must be asked, and when 256 batches are posted already.) Who enters first takes in what was posted before,
// so that a queue sees ops in the order of submits, and a handle that is about to be destroyed has the references of the ops that use it.
//
// Owner    a local of the call that is inside.
// Threads  any. A thread may enter again (a driver or a callback calls back): the outermost takes care of what was posted.
// Cost     two locked instructions.   Errors  none.
//
//     Hold hold(instance);   // until the end of the scope
#pragma once

#include "hal/core/instance.h"

namespace baton::core {

class Hold {
 public:
  explicit Hold(baton_instance* in) : in_(in) { enter(in); }
  ~Hold() { leave(in_); }
  Hold(const Hold&) = delete;

  static void enter(baton_instance* in) {
    in->inside.lock();
    take_posted(in);
  }
  // False: another thread is inside.
  static bool try_enter(baton_instance* in) {
    if (!in->inside.try_lock()) return false;
    take_posted(in);
    return true;
  }
  static void leave(baton_instance* in) {
    if (in->inside.nested()) return in->inside.unlock();
    if (in->took_posted) run_posted(in);
    in->inside.unlock();
    attend(in);
  }
  static void take_posted(baton_instance* in) {
    if (!in->inbox.empty()) take_all(in);
  }
  // Sees to what was posted, unless another thread is inside: then that one will.
  static void attend(baton_instance* in) {
    while (!in->inbox.empty() && in->inside.try_lock()) {
      take_posted(in);
      if (in->took_posted) run_posted(in);
      in->inside.unlock();
    }
  }

 private:
  static void take_all(baton_instance*);
  static void run_posted(baton_instance*);
  baton_instance* in_;
};

}  // namespace baton::core
