#include "drivers/host/options.h"

#include <algorithm>
#include <charconv>

namespace baton::host_driver {
namespace {

constexpr uint32_t kMaxThreads = 256;  // guess: more than a socket has

bool label_char(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
}

Status set(Options& o, std::string_view key, std::string_view value) {
  if (key == "isa") {
    BATON_ASSIGN(o.isa, engine::parse_isa(value));
    return {};
  }
  if (key == "threads") {
    auto [end, ec] = std::from_chars(value.data(), value.data() + value.size(), o.threads);
    if (ec == std::errc() && end == value.data() + value.size() && o.threads >= 1 && o.threads <= kMaxThreads) return {};
    return Error(BATON_INVALID_ARGUMENT, "threads=" + std::string(value), "give a number from 1 to " + std::to_string(kMaxThreads));
  }
  return Error(BATON_INVALID_ARGUMENT, "unknown option '" + std::string(key) + "' for host://", "known options: threads, isa");
}

}  // namespace

Result<Options> parse_options(std::string_view uri) {
  constexpr std::string_view kScheme = "host://";
  if (uri.starts_with(kScheme)) uri.remove_prefix(kScheme.size());
  Options o;
  size_t question = uri.find('?');
  o.label = uri.substr(0, question);
  if (o.label.size() > 24 || !std::all_of(o.label.begin(), o.label.end(), label_char))
    return Error(BATON_INVALID_ARGUMENT, "no label for a host device: '" + o.label.substr(0, 40) + "'",
                 "write host:// or host://LABEL, at most 24 letters and digits: the device is always this process");
  std::string_view rest = question == std::string_view::npos ? std::string_view{} : uri.substr(question + 1);
  while (!rest.empty()) {
    std::string_view pair = rest.substr(0, rest.find('&'));
    rest.remove_prefix(std::min(rest.size(), pair.size() + 1));
    size_t equals = std::min(pair.find('='), pair.size());
    BATON_TRY(set(o, pair.substr(0, equals), equals < pair.size() ? pair.substr(equals + 1) : std::string_view{}));
  }
  return o;
}

}  // namespace baton::host_driver
