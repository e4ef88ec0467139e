#include "drivers/cs3/options.h"

#include <charconv>

namespace baton::cs3 {
namespace {

Status take(Options& o, std::string_view key, std::string_view value) {
  if (key == "carrier") {
    if (value == "any") o.carrier = CarrierKind::any;
    else if (value == "tcp") o.carrier = CarrierKind::tcp;
    else if (value == "shm") o.carrier = CarrierKind::shm;
    else return Error(BATON_INVALID_ARGUMENT, "carrier '" + std::string(value) + "' is not known", "carriers: any, tcp, shm");
    return {};
  }
  if (key == "timeout_ms") {
    const auto r = std::from_chars(value.data(), value.data() + value.size(), o.timeout_ms);
    if (r.ec != std::errc() || r.ptr != value.data() + value.size() || o.timeout_ms == 0 || o.timeout_ms > 600'000)
      return Error(BATON_INVALID_ARGUMENT, "timeout_ms '" + std::string(value) + "' is not a number of 1 to 600000", "the default is 2000");
    return {};
  }
  if (key == "channels") {
    const auto r = std::from_chars(value.data(), value.data() + value.size(), o.channels);
    if (r.ec != std::errc() || r.ptr != value.data() + value.size() || o.channels == 0 || o.channels > kMaxChannels)
      return Error(BATON_INVALID_ARGUMENT, "channels '" + std::string(value) + "' is not a number of 1 to 16", "the default is 16, all of them");
    return {};
  }
  return Error(BATON_INVALID_ARGUMENT, "option '" + std::string(key) + "' is not known", "options of cs3://: carrier, timeout_ms, channels");
}

}  // namespace

Result<Options> parse_options(std::string_view uri) {
  constexpr std::string_view scheme = "cs3://";
  if (!uri.starts_with(scheme)) return Error(BATON_INVALID_ARGUMENT, "'" + std::string(uri) + "' is not cs3://HOST:PORT", "for example cs3://10.0.0.5:9000");
  Options o;
  const size_t question = uri.find('?');
  const std::string_view place = uri.substr(scheme.size(), question == std::string_view::npos ? question : question - scheme.size());
  for (std::string_view left = place;;) {
    const size_t comma = left.find(',');
    BATON_ASSIGN(HostPort address, parse_host_port(left.substr(0, comma)));
    o.addresses.push_back(std::move(address));
    if (comma == std::string_view::npos) break;
    left.remove_prefix(comma + 1);
  }
  o.shown = std::string(scheme) + std::string(place);
  std::string_view rest = question == std::string_view::npos ? std::string_view() : uri.substr(question + 1);
  while (!rest.empty()) {
    const size_t amp = rest.find('&');
    const std::string_view pair = rest.substr(0, amp);
    rest = amp == std::string_view::npos ? std::string_view() : rest.substr(amp + 1);
    const size_t equals = pair.find('=');
    BATON_TRY(take(o, pair.substr(0, equals), equals == std::string_view::npos ? std::string_view() : pair.substr(equals + 1)));
  }
  return o;
}

}  // namespace baton::cs3
