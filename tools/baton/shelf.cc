#include "tools/baton/shelf.hpp"

#include <algorithm>

namespace baton::runtime {

std::string OpenDevice::title() const {
  return std::string(info.model) + " " + info.uri + (info.emulated ? ", emulated" : "");
}

Result<OpenDevice*> Shelf::get(const std::string& uri) {
  auto& slot = devices_[uri];
  if (slot) return slot.get();
  auto opened = instance_.open(uri);
  if (!opened) {
    devices_.erase(uri);
    return opened.error();
  }
  auto d = std::make_unique<OpenDevice>();
  d->given = uri;
  d->device = std::move(*opened);
  auto info = d->device.info();
  if (!info) {
    devices_.erase(uri);
    return info.error();
  }
  d->info = *info;
  slot = std::move(d);
  return slot.get();
}

void Shelf::drop(const std::string& uri) { devices_.erase(uri); }

Result<Staging> Shelf::stage(uint64_t bytes) {
  BATON_ASSIGN(OpenDevice * host, get("host://"));
  Staging s;
  BATON_ASSIGN(s.buffer, host->device.alloc(std::max<uint64_t>(bytes, 4)));
  BATON_ASSIGN(void* p, s.buffer.map());
  s.data = static_cast<uint8_t*>(p);
  std::memset(s.data, 0, s.buffer.bytes());
  return s;
}

}  // namespace baton::runtime
