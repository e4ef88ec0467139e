// shelf.hpp: the devices that this process has open, one handle for each URI, and the host memory that data is staged in.
//
// Owner    the Shelf owns the handles; OpenDevice pointers live until drop() of their URI.
// Threads  as the Instance.
// Errors   as baton_open.
//
//     BATON_ASSIGN(OpenDevice * d, shelf.get("emu+neuron://0"));
//     BATON_ASSIGN(Staging s, shelf.stage(4096));
#pragma once

#include "hal/baton.hpp"

#include <map>
#include <memory>
#include <string>

namespace baton::runtime {

struct OpenDevice {
  std::string given;  // "emu+neuron://0"
  Device device;
  DeviceInfo info{};
  // "Trainium2 neuron://0, emulated"
  std::string title() const;
};

// Host memory that every device can copy to and from.
struct Staging {
  Buffer buffer;
  uint8_t* data = nullptr;
};

class Shelf {
 public:
  explicit Shelf(const Instance& in) : instance_(in) {}
  const Instance& instance() const { return instance_; }
  Result<OpenDevice*> get(const std::string& uri);
  void drop(const std::string& uri);
  Result<Staging> stage(uint64_t bytes);

 private:
  const Instance& instance_;
  std::map<std::string, std::unique_ptr<OpenDevice>> devices_;
};

}  // namespace baton::runtime
