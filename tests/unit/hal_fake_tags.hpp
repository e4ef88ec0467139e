// hal_fake_tags.hpp: what an op's tag makes the fake driver (hal_fake_driver.cc) do.
#pragma once

#include <cstdint>

inline constexpr uint32_t kFail = 0xfa11;  // fails with FAILED "told to fail"
inline constexpr uint32_t kHang = 0x4a46;  // completes only when cancelled: when progress() answers non-zero
inline constexpr uint32_t kLose = 0x1057;  // reports the device lost
inline constexpr uint32_t kLate = 0x1a7e;  // completes twice: the second is stale
// What a driver may not do.
inline constexpr uint32_t kEager = 0xea9e;      // completes inside submit, which then says that it did not take it
inline constexpr uint32_t kUntaken = 0x0417;    // not taken at first, and completed all the same by the next poll; taken after that
inline constexpr uint32_t kBackwards = 0xbac4;  // a LAUNCH that reaches mark 2, then mark 1
inline constexpr uint32_t kMarks = 0x3a24;      // reaches a mark, whatever it is
inline constexpr uint32_t kElsewhere = 0x7e1e;  // completes on a thread of the driver's
