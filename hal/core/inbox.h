// inbox.h: ops that were submitted while another thread was inside the instance, until they are taken in.
//
// Owner    the instance. A batch holds copies of its ops and of what they point to (bindings, names, arguments).
// Threads  post: any, without a lock. take, recycle: whoever is inside (hold.h).
// Cost     post: the copies and two locked instructions. The memory of up to four batches is kept for the next ones.
// Errors   none.
//
//     inbox.post(queue, ops, count);   for (Batch* b = inbox.take(); b; b = next) ...
#pragma once

#include "hal/baton.h"

#include <atomic>
#include <vector>

namespace baton::core {

struct Batch {
  Batch* next = nullptr;
  baton_queue* queue = nullptr;
  std::vector<baton_op> ops;
  std::vector<char> pointed_to;
};

class Inbox {
 public:
  Inbox() = default;
  ~Inbox();
  Inbox(const Inbox&) = delete;
  // seq_cst: whoever leaves looks here after letting go; whoever posts looks for somebody inside after posting.
  bool empty() const { return !posted_.load(std::memory_order_seq_cst); }
  // False: so much is posted already that who submits should rather wait than run ahead of who is inside.
  bool post(baton_queue*, const baton_op* ops, uint32_t count);
  Batch* take();  // all of them, in the order in which they were posted
  void recycle(Batch*);

 private:
  static constexpr int kSpares = 4;
  static constexpr uint32_t kMost = 256;    // batches
  static constexpr size_t kKeptOps = 1024;  // larger batches are freed
  Batch* fresh();
  std::atomic<Batch*> posted_{nullptr};  // stack
  std::atomic<uint32_t> count_{0};
  std::atomic<Batch*> spare_[kSpares]{};
};

}  // namespace baton::core
