#include "emulators/neuron/strict.hpp"

#include "emulators/neuron/hbm.hpp"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <mutex>
#include <vector>

namespace baton::neuron_emu {
namespace {

struct Window {
  const Hbm* hbm;
  const uint8_t* base;
  uint64_t bytes;
};
struct Windows {
  std::mutex mutex;
  std::vector<Window> all;
  struct sigaction previous {};
};
Windows g_windows;

void hand_on(int signal, siginfo_t* info, void* context) {
  const struct sigaction& p = g_windows.previous;
  if (p.sa_flags & SA_SIGINFO && p.sa_sigaction) return p.sa_sigaction(signal, info, context);
  if (p.sa_handler != SIG_DFL && p.sa_handler != SIG_IGN) return p.sa_handler(signal);
  sigaction(signal, &p, nullptr);  // the access is tried again, and ends the process as it would have
}

// The fault is the caller's own load or store, so no lock that is taken here is held by this thread.
void on_fault(int signal, siginfo_t* info, void* context) {
  const uint8_t* at = static_cast<const uint8_t*>(info->si_addr);
  {
    std::lock_guard lock(g_windows.mutex);
    for (const Window& w : g_windows.all) {
      if (at < w.base || at >= w.base + w.bytes) continue;
      char what[320], line[640];
      w.hbm->describe(at, what, sizeof what);
      int n = std::snprintf(line, sizeof line,
                            "libnrt (emulator, strict): the CPU touched device memory at %p: %s. next: nrt_tensor_read and nrt_tensor_write, or register it by "
                            "nrt_get_dmabuf_fd_v2\n", info->si_addr, what);
      (void)!write(STDERR_FILENO, line, size_t(std::min<int>(n, sizeof line - 1)));
      break;
    }
  }
  hand_on(signal, info, context);
}

}  // namespace

StrictWindow::StrictWindow(const Hbm& hbm, const void* base, uint64_t bytes) : base_(base) {
  std::lock_guard lock(g_windows.mutex);
  g_windows.all.push_back({&hbm, static_cast<const uint8_t*>(base), bytes});
  if (g_windows.all.size() > 1) return;
  struct sigaction ours {};
  ours.sa_sigaction = on_fault;
  ours.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  sigaction(SIGSEGV, &ours, &g_windows.previous);
}

StrictWindow::~StrictWindow() {
  std::lock_guard lock(g_windows.mutex);
  std::erase_if(g_windows.all, [&](const Window& w) { return w.base == base_; });
  if (g_windows.all.empty()) sigaction(SIGSEGV, &g_windows.previous, nullptr);
}

}  // namespace baton::neuron_emu
