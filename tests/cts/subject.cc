#include "tests/cts/subject.h"

namespace baton::cts {

bool matches(std::string_view pattern, std::string_view name) {
  const size_t star = pattern.find('*');
  if (star == std::string_view::npos) return pattern == name;
  if (!name.starts_with(pattern.substr(0, star))) return false;
  name.remove_prefix(star);
  pattern.remove_prefix(star + 1);
  for (;; name.remove_prefix(1)) {
    if (matches(pattern, name)) return true;
    if (name.empty()) return false;
  }
}

const Entry* find(const std::vector<Entry>& entries, std::string_view test) {
  for (const Entry& e : entries)
    if (matches(e.tests, test)) return &e;
  return nullptr;
}

}  // namespace baton::cts
