#include "hal/core/finding.h"

#include "hal/core/instance.h"

#include <cstdio>
#include <cstdlib>

namespace baton::core {

void Findings::set(baton_finding_fn fn, void* user) {
  fn_ = fn;
  user_ = user;
}

void Findings::report(const Rule& r, const std::string& what) {
  // One write a line, so that lines of several threads and processes do not mix.
  if (print_)
    std::fprintf(stderr, "baton: %s [%s, %s's]: %s; next: %s\n", r.code, r.severity == BATON_MISUSE ? "misuse" : "warning", r.blame, what.c_str(),
                 r.next);
  if (fn_) {
    const baton_finding f{sizeof f, uint32_t(r.severity), r.code, r.blame, what.c_str(), r.next};
    ++in_->in_driver;  // a submit from inside the callback is taken, and issued when the callback is over
    fn_(user_, &f);
    --in_->in_driver;
    if (!in_->dirty.empty() || in_->changed.load(std::memory_order_relaxed)) in_->took_posted = true;
  }
  if (abort_ && r.severity == BATON_MISUSE) std::abort();
}

}  // namespace baton::core
