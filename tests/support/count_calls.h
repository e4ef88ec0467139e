// count_calls.h: how often the calling thread has allocated memory and taken a lock, in its own code and in every library.
//
// The program that links this replaces malloc and its kin, the pthread locks and syscall() (for futexes), each by a count and the call of
// the real one. Under a sanitizer, which replaces them itself, allocations are counted by its hook and locks are not counted.
//
// Owner    -   Threads  any; each has its own counts.   Cost  an addition a call.   Errors  none.
//
//     Calls before = calls();   ...;   EXPECT_EQ(calls().allocations, before.allocations);
#pragma once

#include <cstdint>

namespace baton::test {

struct Calls {
  uint64_t allocations = 0, locks = 0, futexes = 0;
};
Calls calls();
bool counts_locks();

}  // namespace baton::test
