#include "hal/layers/record/recorder.h"

#include "hal/layers/record/contents.h"

namespace baton::layers {
namespace {

constexpr size_t kFlushBytes = 256 << 10;

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

std::string Recorder::contents(const void* data, uint64_t bytes) {
  const std::string name = hash_of(data, bytes);
  std::lock_guard lock(mu_);
  if (bytes <= inline_bytes_ && known_.insert(name).second)
    write(nlohmann::ordered_json({{"blob", name}, {"bytes", bytes}, {"base64", to_base64(data, bytes)}}).dump());
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
