#include "tools/devctl/progress.h"

#include "hal/baton.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace baton::devctl {

Progress::Progress(size_t total) : terminal_(isatty(STDERR_FILENO)), total_(std::max<size_t>(total, 1)), start_ns_(now_ns()) {}

Progress::~Progress() {
  if (terminal_) std::fputs("\r\x1b[K", stderr);
}

void Progress::step(const std::string& what) {
  const size_t at = std::min(done_++, total_);
  if (!terminal_) return;
  const size_t full = at * 24 / total_;
  std::fputs(fmt::format("\r[{}{}] {}/{}  {:.0f} s  {}\x1b[K", std::string(full, '#'), std::string(24 - full, '-'), at, total_, double(now_ns() - start_ns_) / 1e9, what.substr(0, 36)).c_str(), stderr);
  std::fflush(stderr);
}

}  // namespace baton::devctl
