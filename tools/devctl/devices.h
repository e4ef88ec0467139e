// devices.h: which devices a selector means, and how a device is shown.
//
// A selector is a name (trn0, cs0, host0), a name with * (trn*), `all`, an emulated system's name, or a URI (neuron://0, emu+cs3://0). Names and
// patterns choose among the devices that the drivers find; a URI is opened as it is, which starts an emulator for emu+.
//
// Owner    Devices owns the instance and with it every emulator that it started: they end with it.
// Threads  one.   Cost  find: an enumeration; open: whatever the driver's open costs (an emulator: some 10 ms).
// Errors   NOT_FOUND for a selector that means nothing here, with what there is; what the driver says otherwise.
//
//     BATON_ASSIGN(Devices devices, Devices::create(read_options()));
//     BATON_ASSIGN(auto found, devices.select("trn*"));
#pragma once

#include "hal/baton.hpp"
#include "tools/devctl/options.h"

#include <nlohmann/json.hpp>

#include <string>
#include <vector>

namespace baton::devctl {

bool is_uri(std::string_view selector);
bool matches(std::string_view pattern, std::string_view name);  // '*' is any run of characters

class Devices {
 public:
  static Result<Devices> create(Options options);
  const Instance& instance() const { return instance_; }
  const Options& options() const { return options_; }
  // Every device found by installed drivers. Nothing is opened.
  Result<std::vector<DeviceInfo>> all() const { return instance_.enumerate(); }
  // The address of the emulated system of that name (devctl emu up) while it is up; any other selector as it is.
  std::string meant(const std::string& selector) const;
  // The devices that a selector means, at least one (for `all`: what there is). A URI is opened for its information and closed.
  Result<std::vector<DeviceInfo>> select(const std::string& selector) const;
  // The address of the one device that a selector means: a URI as it is. Nothing is opened.
  Result<std::string> address(const std::string& selector) const;
  // The one device that a selector means, opened; more than one is INVALID_ARGUMENT.
  Result<Device> open(const std::string& selector) const;
  // NOT_FOUND for a selector that means nothing here, with what there is.
  Error none(const std::string& selector) const;
  // Addresses that start an emulator: "emu+cs3://0".
  std::vector<std::string> startable() const;

 private:
  Devices(Instance i, Options o) : instance_(std::move(i)), options_(std::move(o)) {}
  Error none(const std::string& selector, const std::vector<DeviceInfo>& have) const;
  Instance instance_;
  Options options_;
};

nlohmann::ordered_json device_json(const DeviceInfo&);
std::string kind(const DeviceInfo&);         // "emulated" | "real"
std::string label(const DeviceInfo&);        // name, or the URI of a device that has none
// The same of a device in a document, ready for a terminal.
std::string label(const nlohmann::ordered_json& device);
std::string kind(const nlohmann::ordered_json& device);
uint64_t memory_bytes(const nlohmann::ordered_json& device);  // all heaps

}  // namespace baton::devctl
