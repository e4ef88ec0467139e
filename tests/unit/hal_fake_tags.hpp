// hal_fake_tags.hpp: what an op's tag makes the fake driver (hal_fake_driver.cc) do.
#pragma once

#include <cstdint>

inline constexpr uint32_t kFail = 0xfa11;  // fails with FAILED "told to fail"
inline constexpr uint32_t kHang = 0x4a46;  // completes only when cancelled: when progress() answers non-zero
inline constexpr uint32_t kLose = 0x1057;  // reports the device lost
inline constexpr uint32_t kLate = 0x1a7e;  // completes twice: the second is stale
