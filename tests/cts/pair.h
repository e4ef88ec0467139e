// pair.h: what the suites of pairs do all the time: put bytes into one end, take them out of the other, copy and wait.
//
// Owner    value types over the fixture's devices.   Threads  one.   Cost  bytes go through host:// and wait.
// Errors   must(): the case fails and ends.
//
//     Ends e(f);                                        // from, to, a link between them
//     Buffer src = e.filled(e.from, data), dst = e.filled(e.to, Bytes(data.size(), 0xee));
//     EXPECT_OK(e.arrives(e.link, copy(src, 1, dst, 2, 100)));
//     EXPECT_TRUE(same(e.bytes(e.to, dst), expected));
#pragma once

#include "tests/cts/fixture.h"

#include <cstring>

namespace baton::cts {

struct Ends {
  explicit Ends(Fixture& fixture) : f(fixture), from(f.device), to(f.peer), link(must(f.in().link(from, to))) {}

  // A buffer of `d` that holds `data`.
  Buffer filled(const Device& d, const Bytes& data) {
    Buffer b = must(d.alloc(data.size())), h = f.host(data.size());
    std::memcpy(Fixture::mapped(h), data.data(), data.size());
    Queue q = must(d.queue());
    must(arrives(q, copy(h, 0, b, 0, data.size())));
    return b;
  }
  Bytes bytes(const Device& d, const Buffer& b) { return bytes(d, b, 0, b.bytes()); }
  Bytes bytes(const Device& d, const Buffer& b, uint64_t offset, uint64_t n) {
    Buffer h = f.host(n);
    Queue q = must(d.queue());
    must(arrives(q, copy(b, offset, h, 0, n)));
    return Bytes(Fixture::mapped(h), Fixture::mapped(h) + n);
  }
  Status arrives(const Queue& q, Op op) {
    Timeline t = f.timeline("arrives");
    BATON_TRY(q.submit(op.signal(t, 1)));
    return t.wait_until(1, soon());
  }
  // An end works: a copy within its own memory arrives.
  void expect_usable(const Device& d) {
    const Bytes data = f.random(1000);
    Buffer b = filled(d, data);
    EXPECT_TRUE(same(bytes(d, b), data));
  }

  Fixture& f;
  const Device &from, &to;
  Queue link;
};

}  // namespace baton::cts
