#include "tools/baton/exit_code.hpp"

#include <algorithm>
#include <cstdio>

namespace baton::runtime {

int exit_code(const Error& e) {
  switch (e.code) {
    case BATON_OK: return 0;
    case BATON_INVALID_ARGUMENT:
    case BATON_CORRUPT: return 2;
    case BATON_NOT_FOUND: return 3;
    case BATON_PERMISSION: return 4;
    case BATON_BUSY:
    case BATON_CAPACITY: return 5;
    case BATON_UNSUPPORTED: return 6;
    case BATON_DEVICE_LOST:
    case BATON_PEER_LOST: return 7;
    case BATON_DEADLINE: return 8;
    case BATON_VERSION:
    case BATON_MISMATCH: return 9;
    case BATON_CANCELLED: return 130;
    default: return 1;
  }
}

int report_error(const Error& e) {
  auto line = [](std::string s) {
    std::replace(s.begin(), s.end(), '\n', ' ');
    return s;
  };
  std::string next = e.next[0] ? e.next : "see 'baton --help'";
  std::fprintf(stderr, "baton: %s\nnext: %s\n", line(e.text()).c_str(), line(next).c_str());
  return exit_code(e);
}

}  // namespace baton::runtime
