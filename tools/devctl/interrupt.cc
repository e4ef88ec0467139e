// ctrl-C: the first one asks the verb to end with what it has, the second one ends the process.
#include "tools/devctl/interrupt.h"

#include "tools/devctl/verbs.h"

#include <csignal>
#include <unistd.h>

namespace baton::devctl {
namespace {

volatile std::sig_atomic_t g_interrupts = 0;  // a signal handler has no other place

void on_interrupt(int) {
  g_interrupts = g_interrupts + 1;
  if (g_interrupts > 1) _exit(kInterrupted);  // a second one does not wait for the verb
}

}  // namespace

bool interrupted() { return g_interrupts != 0; }

void catch_interrupts() {
  struct sigaction action {};
  action.sa_handler = on_interrupt;
  sigaction(SIGINT, &action, nullptr);
}

}  // namespace baton::devctl
