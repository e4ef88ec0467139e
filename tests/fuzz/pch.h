// pch.h: what nearly every source includes, precompiled once for the preset fuzz, where parsing it would take most of the build.
//
// Owner    -   Threads  -   Cost  two seconds, once.   Errors  -
#include "hal/baton.hpp"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>
