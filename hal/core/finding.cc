#include "hal/core/finding.h"

#include <cstdio>
#include <cstdlib>

namespace baton::core {

void Findings::set(baton_finding_fn fn, void* user) {
  std::lock_guard lock(mu_);
  fn_ = fn;
  user_ = user;
}

void Findings::report(const Rule& r, const std::string& what) {
  std::lock_guard lock(mu_);
  // One write a line, so that lines of several threads and processes do not mix.
  if (print_)
    std::fprintf(stderr, "baton: %s [%s, %s's]: %s; next: %s\n", r.code, r.severity == BATON_MISUSE ? "misuse" : "warning", r.blame, what.c_str(),
                 r.next);
  if (fn_) {
    const baton_finding f{sizeof f, uint32_t(r.severity), r.code, r.blame, what.c_str(), r.next};
    fn_(user_, &f);
  }
  if (abort_ && r.severity == BATON_MISUSE) std::abort();
}

}  // namespace baton::core
