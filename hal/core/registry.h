// registry.h: from a URI to a driver: loads libbaton-driver-SCHEME.so, and runs baton-emu-SCHEME for emu+SCHEME. From a name to a
// layer: loads libbaton-layer-NAME.so.
//
// Owner    the instance. Drivers stay loaded and emulators stay alive until it is destroyed.
// Threads  any; its own lock, never the instance's (launching takes seconds).
// Cost     once a scheme: a dlopen. A table lookup after that.
// Errors   NOT_FOUND (with the folders searched and the schemes installed), VERSION, FAILED, what EmulatorProcess says.
//
//     BATON_ASSIGN(std::string uri, registry.resolve("emu+cs3://0"));   // "cs3://127.0.0.1:41234"
//     BATON_ASSIGN(const baton_driver* table, registry.driver("cs3"));
#pragma once

#include "hal/core/address.h"
#include "hal/core/emulator_process.h"
#include "hal/core/options.h"

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

namespace baton::core {

class Registry {
 public:
  explicit Registry(Options options) : options_(std::move(options)) {}
  // The ordinary address: an emu+ URI is launched (or, while its process lives, looked up), any other is returned as it is.
  Result<std::string> resolve(const std::string& uri);
  Result<const baton_driver*> driver(const std::string& scheme);
  Result<const baton_layer*> layer(const std::string& name);
  std::vector<std::string> installed() const;  // schemes with a driver file in the folders
  void reap();                                 // forgets emulators that have ended
  void end_emulators();

 private:
  struct Library {
    void* handle = nullptr;
    baton_driver table{};  // a copy: slots that an older driver does not have are NULL
    baton_layer layer{};   // of a layer; `table` is then its slots
    ~Library();
  };
  Result<std::string> launch(const Uri&);
  Result<std::unique_ptr<Library>> load(const std::string& path, const std::string& scheme) const;
  Result<std::unique_ptr<Library>> load_layer(const std::string& path, const std::string& name) const;

  Options options_;
  std::mutex mu_;
  std::map<std::string, std::unique_ptr<Library>> libraries_, layers_;
  struct Emulator {
    std::string scheme;
    std::unique_ptr<EmulatorProcess> process;
  };
  std::vector<Emulator> emulators_;
};

}  // namespace baton::core
