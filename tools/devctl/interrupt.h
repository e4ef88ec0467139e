// interrupt.h: ctrl-C as something that a verb asks for: interrupted() of verbs.h says that it has come.
//
// Owner    the process: a signal handler has no other place.   Threads  called once, by main().   Cost  -   Errors  none.
//
//     catch_interrupts();
#pragma once

namespace baton::devctl {

void catch_interrupts();  // a second ctrl-C ends the process at once, exit code 130

}  // namespace baton::devctl
