#include "hal/layers/record/recorder.h"

#include <sodium.h>
#include <xxhash.h>

#include <cstdio>

namespace baton::layers {
namespace {

constexpr size_t kFlushBytes = 256 << 10;

std::string base64(const void* data, uint64_t bytes) {
  std::string text(sodium_base64_ENCODED_LEN(bytes, sodium_base64_VARIANT_ORIGINAL), 0);
  sodium_bin2base64(text.data(), text.size(), static_cast<const unsigned char*>(data), bytes, sodium_base64_VARIANT_ORIGINAL);
  text.resize(text.size() - 1);  // the terminating 0
  return text;
}

}  // namespace

Recorder::Recorder(OutputFile file, uint64_t inline_bytes, bool mapped)
    : file_(std::move(file)), inline_bytes_(inline_bytes), mapped_(mapped) {
  line({{"schema", "baton.record/1"}, {"inline", inline_bytes}});
  flush();
}

Recorder::~Recorder() { flush(); }

void Recorder::write(const std::string& text) {
  text_ += text + "\n";
  if (text_.size() < kFlushBytes) return;
  file_.append(text_);
  text_.clear();
}

void Recorder::line(const nlohmann::ordered_json& j) {
  const std::string text = j.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  std::lock_guard lock(mu_);
  write(text);
}

std::string Recorder::hash(const void* data, uint64_t bytes) {
  const XXH128_hash_t h = XXH3_128bits(data, bytes);
  char text[33];
  std::snprintf(text, sizeof text, "%016llx%016llx", static_cast<unsigned long long>(h.high64), static_cast<unsigned long long>(h.low64));
  return text;
}

std::string Recorder::contents(const void* data, uint64_t bytes) {
  const std::string name = hash(data, bytes);
  std::lock_guard lock(mu_);
  if (bytes <= inline_bytes_ && known_.insert(name).second)
    write(nlohmann::ordered_json({{"blob", name}, {"bytes", bytes}, {"base64", base64(data, bytes)}}).dump());
  return name;
}

uint64_t Recorder::number() {
  std::lock_guard lock(mu_);
  return ++last_;
}

void Recorder::flush() {
  std::lock_guard lock(mu_);
  file_.append(text_);
  text_.clear();
}

}  // namespace baton::layers
