#include "hal/layers/trace/chrome_trace.h"

#include <nlohmann/json.hpp>

#include <cstdio>

namespace baton::layers {
namespace {

std::string quoted(std::string_view s) {
  return nlohmann::json(std::string(s)).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string number(const char* key, double value) {
  char text[64];
  std::snprintf(text, sizeof text, ",\"%s\":%.3f", key, value);
  return text;
}

}  // namespace

void ChromeTrace::begin(const char* phase, int pid, int lane, std::string_view name) {
  if (!first_) text_ += ",\n";
  first_ = false;
  char head[64];
  std::snprintf(head, sizeof head, "{\"ph\":\"%s\",\"pid\":%d,\"tid\":%d,\"name\":", phase, pid, lane);
  text_ += head;
  text_ += quoted(name);
}

void ChromeTrace::process(int pid, std::string_view name) {
  begin("M", pid, 0, "process_name");
  text_ += ",\"args\":{\"name\":" + quoted(name) + "}}";
}

int ChromeTrace::lane(int pid, std::string_view name) {
  auto [it, fresh] = lanes_.try_emplace({pid, std::string(name)}, int(lanes_.size()) + 1);
  if (fresh) {
    begin("M", pid, it->second, "thread_name");
    text_ += ",\"args\":{\"name\":" + quoted(name) + "}}";
  }
  return it->second;
}

void ChromeTrace::span(int pid, int lane, std::string_view name, double at_us, double us, std::string_view arguments) {
  begin("X", pid, lane, name);
  text_ += number("ts", at_us) + number("dur", us);
  if (!arguments.empty()) text_ += ",\"args\":{" + std::string(arguments) + "}";
  text_ += "}";
}

void ChromeTrace::mark(int pid, int lane, std::string_view name, double at_us) {
  begin("i", pid, lane, name);
  text_ += number("ts", at_us) + ",\"s\":\"t\"}";
}

}  // namespace baton::layers
