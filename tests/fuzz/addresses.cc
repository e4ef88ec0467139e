// Addresses and short options: device URIs, each driver's own, layer lists, HOST:PORT, core lists, an emulator's options.
// What a parser takes it takes again from what it gave.
#include "drivers/cs3/options.h"
#include "drivers/host/options.h"
#include "drivers/neuron/options.hpp"
#include "emulators/neuron/options.hpp"
#include "hal/core/address.h"
#include "tests/fuzz/fuzz.h"
#include "transport/kv_layout.hpp"
#include "transport/socket.hpp"

#include <algorithm>

using namespace baton;

namespace {

void core_addresses(std::string_view text) {
  if (auto uri = core::parse_uri(text)) {
    FUZZ_CHECK((uri->emulated ? "emu+" : "") + uri->scheme + "://" + uri->rest == text);
    FUZZ_CHECK(!uri->scheme.empty() && uri->scheme.find('/') == std::string::npos);  // it becomes part of a file's name
  } else {
    fuzz::sound(uri);
  }
  auto layers = core::parse_layers(text);
  if (!layers) fuzz::sound(layers);
  if (layers)
    for (const auto& l : *layers) FUZZ_CHECK(!l.name.empty() && l.name.find('/') == std::string::npos && l.argument.find(',') == std::string::npos);
}

void driver_addresses(std::string_view text) {
  if (auto o = cs3::parse_options(text)) FUZZ_CHECK(o->timeout_ms >= 1 && o->timeout_ms <= 600'000 && !o->addresses.empty() && std::none_of(o->addresses.begin(), o->addresses.end(), [](auto& a) { return a.host.empty() || a.port.empty(); }));
  else fuzz::sound(o);
  if (auto o = host_driver::parse_options(text)) FUZZ_CHECK(o->threads >= 1 && o->label.size() <= 24);
  else fuzz::sound(o);
  if (auto o = neuron::parse_uri(text))
    for (const auto& [name, value] : o->env) FUZZ_CHECK(!name.empty());
  else fuzz::sound(o);
  if (auto cores = neuron::parse_cores(text)) FUZZ_CHECK(std::is_sorted(cores->begin(), cores->end()) && cores->size() <= 4096 * (text.size() + 1));
  else fuzz::sound(cores);
}

void network_addresses(const std::string& text) {
  auto a = transport::parse_host_port(text);
  auto b = cs3::parse_host_port(text);
  if (!a) fuzz::sound(a);
  if (!b) fuzz::sound(b);
  if (a) FUZZ_CHECK(!a->host.empty() && !a->port.empty() && std::all_of(a->port.begin(), a->port.end(), [](char c) { return c >= '0' && c <= '9'; }));
  fuzz::sound(transport::parse_order(text));
  for (const char* name : {"chips", "threads", "lnc", "isa", "timing"}) fuzz::sound(neuron_emu::check_option(name, text));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  core_addresses(text);
  driver_addresses(text);
  network_addresses(text);
  return 0;
}
