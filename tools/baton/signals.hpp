// signals.hpp: SIGINT and SIGTERM as a flag that event loops look at.
//
// Owner    the process.   Threads  any.   Errors  none.
//
//     Signals::install();   while (!Signals::stop) pump.turn();   return Signals::stop == SIGINT ? 130 : 0;
#pragma once

#include <csignal>

namespace baton::runtime {

struct Signals {
  static inline volatile int stop = 0; // the signal's number
  static void install() {
    struct sigaction a {};
    a.sa_handler = [](int s) { stop = s; };
    ::sigaction(SIGINT, &a, nullptr);
    ::sigaction(SIGTERM, &a, nullptr);
    ::signal(SIGPIPE, SIG_IGN); // a reader of stdout that goes is an error of write()
  }
};

}  // namespace baton::runtime
