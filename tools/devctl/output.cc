#include "tools/devctl/output.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>

namespace baton::devctl {
namespace {

size_t width(std::string_view s) {  // code points: enough for the letters that a device name holds
  return size_t(std::count_if(s.begin(), s.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

}  // namespace

int exit_code(int32_t code) {
  switch (code) {
    case BATON_OK: return kOk;
    case BATON_INVALID_ARGUMENT:
    case BATON_CORRUPT: return kUsage;
    case BATON_NOT_FOUND: return kNoDevice;
    case BATON_PERMISSION: return kPermission;
    case BATON_BUSY:
    case BATON_CAPACITY: return kBusy;
    case BATON_UNSUPPORTED: return kUnsupported;
    case BATON_DEVICE_LOST:
    case BATON_PEER_LOST: return kLost;
    case BATON_DEADLINE: return kTimeout;
    case BATON_CANCELLED: return kInterrupted;
    case BATON_VERSION:
    case BATON_MISMATCH: return kVersion;
    default: return kFinding;
  }
}

void Output::document(std::string_view verb, json body) const { print(document_text(verb, body)); }

void Output::print(std::string_view text) const { std::fwrite(text.data(), 1, text.size(), stdout); }

void Output::note(std::string_view line) const {
  std::fflush(stdout);
  std::fwrite(line.data(), 1, line.size(), stderr);
  std::fputc('\n', stderr);
}

int Output::fail(const Error& e) const { return fail(exit_code(e.code), e.text(), e.next); }

int Output::fail(int exit, std::string_view what, std::string_view next) const {
  note("devctl: " + clean(what));
  note("next: " + (next.empty() ? std::string("devctl --help") : clean(next)));
  return exit;
}

std::string Output::paint(const char* sgr, std::string_view s) const {
  return colour_ ? fmt::format("\x1b[{}m{}\x1b[0m", sgr, s) : std::string(s);
}

std::string document_text(std::string_view verb, const json& body) {
  json doc = {{"schema", fmt::format("baton.devctl.{}/1", verb)}};
  doc.update(body);
  return doc.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

json error_json(const Error& e) {
  return {{"code", baton_code_name(e.code)}, {"device", e.device}, {"hop", e.hop}, {"what", e.what}, {"next", e.next}};
}

std::string Table::text(std::string_view indent) const {
  std::vector<size_t> widths;
  for (auto& row : rows_)
    for (size_t c = 0; c < row.size(); ++c) {
      if (c >= widths.size()) widths.push_back(0);
      widths[c] = std::max(widths[c], width(row[c]));
    }
  std::string out;
  for (auto& row : rows_) {
    std::string line(indent);
    for (size_t c = 0; c < row.size(); ++c) {
      bool right = std::find(right_.begin(), right_.end(), c) != right_.end();
      std::string pad(widths[c] - width(row[c]), ' ');
      line += right ? pad + row[c] : row[c] + pad;
      if (c + 1 < row.size()) line += "  ";
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  }
  return out;
}

std::string bytes_text(uint64_t bytes) {
  static constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  double v = double(bytes);
  size_t u = 0;
  for (; v >= 1024 && u + 1 < std::size(kUnits); ++u) v /= 1024;
  if (v == double(uint64_t(v))) return fmt::format("{} {}", uint64_t(v), kUnits[u]);
  return fmt::format("{:.1f} {}", v, kUnits[u]);
}

std::string ns_text(double ns) {
  if (ns < 1e3) return fmt::format("{:.0f} ns", ns);
  if (ns < 1e6) return fmt::format("{:.2f} us", ns / 1e3);
  if (ns < 1e9) return fmt::format("{:.2f} ms", ns / 1e6);
  return fmt::format("{:.2f} s", ns / 1e9);
}

std::string rate_text(double r) {
  return r >= 1e9 ? fmt::format("{:.2f} GB/s", r / 1e9) : r >= 1e6 ? fmt::format("{:.1f} MB/s", r / 1e6) : fmt::format("{:.1f} kB/s", r / 1e3);
}

std::string clean(std::string_view s) {
  std::string out(s);
  for (char& c : out)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  return out;
}

}  // namespace baton::devctl
