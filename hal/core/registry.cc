#include "hal/core/registry.h"

#include <dirent.h>
#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <set>

namespace baton::core {
namespace {

constexpr char kDriverPrefix[] = "libbaton-driver-";
constexpr char kLayerPrefix[] = "libbaton-layer-";
constexpr char kPluginSuffix[] = ".so";

// The first of `folders` that holds `name`; "" if none.
std::string find_file(const std::vector<std::string>& folders, const std::string& name, int mode) {
  for (const std::string& folder : folders) {
    std::string path = folder + "/" + name;
    if (!access(path.c_str(), mode)) return path;
  }
  return "";
}

// What stands between `prefix` and ".so" in the names of the folders' files, sorted.
std::vector<std::string> names_of(const std::vector<std::string>& folders, std::string_view prefix) {
  constexpr size_t kSuffix = sizeof kPluginSuffix - 1;
  std::set<std::string> names;
  for (const std::string& folder : folders) {
    DIR* dir = opendir(folder.c_str());
    if (!dir) continue;
    while (dirent* entry = readdir(dir)) {
      std::string_view name = entry->d_name;
      if (name.size() > prefix.size() + kSuffix && name.starts_with(prefix) && name.ends_with(kPluginSuffix))
        names.emplace(name.substr(prefix.size(), name.size() - prefix.size() - kSuffix));
    }
    closedir(dir);
  }
  return {names.begin(), names.end()};
}

// The symbol, NULL if the file does not export it. `handle` is the caller's to close.
Result<void*> open_plugin(const std::string& path, const char* symbol, void*& handle) {
  // NODELETE: a plug-in may have left thread-local destructors or a vendor runtime behind that must not lose its code.
  handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (handle) return dlsym(handle, symbol);
  const char* why = dlerror();
  return Error(BATON_FAILED, std::string("cannot load ") + (why ? why : path), "rebuild it against this libbaton");
}

template <class Table>
Status check_plugin(const std::string& path, const std::string& kind, const char* symbol, const Table* table) {
  if (!table)
    return Error(BATON_VERSION, path + " does not export " + symbol, "it is no " + kind + ", or one for another libbaton");
  if (table->abi_version == BATON_ABI_VERSION) return {};
  return Error(BATON_VERSION, path + " speaks " + kind + " ABI " + std::to_string(table->abi_version) + ", libbaton " + baton_version() +
                                  " speaks " + std::to_string(BATON_ABI_VERSION),
               "install the " + kind + " that came with this libbaton");
}

}  // namespace

Registry::Library::~Library() {
  if (handle) dlclose(handle);
}

std::vector<std::string> Registry::installed() const { return names_of(options_.driver_folders, kDriverPrefix); }

Result<std::unique_ptr<Registry::Library>> Registry::load(const std::string& path, const std::string& scheme) const {
  auto lib = std::make_unique<Library>();
  BATON_ASSIGN(void* symbol, open_plugin(path, BATON_DRIVER_SYMBOL, lib->handle));
  auto entry = reinterpret_cast<baton_driver_fn>(symbol);
  const baton_driver* table = entry ? entry() : nullptr;
  BATON_TRY(check_plugin(path, "driver", BATON_DRIVER_SYMBOL, table));
  std::memcpy(&lib->table, table, std::min<size_t>(table->struct_size, sizeof lib->table));
  if (!lib->table.scheme || scheme != lib->table.scheme)
    return Error(BATON_MISMATCH, path + " is a driver for '" + (lib->table.scheme ? lib->table.scheme : "") + "'",
                 "name the file after the scheme that it serves");
  return lib;
}

Result<std::unique_ptr<Registry::Library>> Registry::load_layer(const std::string& path, const std::string& name) const {
  auto lib = std::make_unique<Library>();
  BATON_ASSIGN(void* symbol, open_plugin(path, BATON_LAYER_SYMBOL, lib->handle));
  auto entry = reinterpret_cast<baton_layer_fn>(symbol);
  const baton_layer* layer = entry ? entry() : nullptr;
  BATON_TRY(check_plugin(path, "layer", BATON_LAYER_SYMBOL, layer));
  std::memcpy(&lib->layer, layer, std::min<size_t>(layer->struct_size, sizeof lib->layer));
  const baton_layer& l = lib->layer;
  if (!l.name || name != l.name)
    return Error(BATON_MISMATCH, path + " is the layer '" + (l.name ? l.name : "") + "'", "name the file after the layer");
  if (!l.create || !l.destroy || !l.attach || !l.detach || !l.slots)
    return Error(BATON_INVALID_ARGUMENT, path + " leaves create, destroy, attach, detach or slots empty", "fill all five");
  std::memcpy(&lib->table, l.slots, std::min<size_t>(l.slots->struct_size, sizeof lib->table));
  lib->layer.slots = &lib->table;
  const int own_queue = !!lib->table.queue_open + !!lib->table.queue_close + !!lib->table.submit + !!lib->table.poll;
  if (own_queue % 4)
    return Error(BATON_INVALID_ARGUMENT, path + " fills " + std::to_string(own_queue) + " of queue_open, queue_close, submit and poll",
                 "fill all four or none");
  return lib;
}

Result<const baton_driver*> Registry::driver(const std::string& scheme) {
  std::lock_guard lock(mu_);
  if (auto it = libraries_.find(scheme); it != libraries_.end()) return &it->second->table;
  std::string path = find_file(options_.driver_folders, kDriverPrefix + scheme + kPluginSuffix, R_OK);
  if (path.empty()) {
    std::vector<std::string> have = installed();
    return Error(BATON_NOT_FOUND,
                 "no driver for '" + scheme + "': " + kDriverPrefix + scheme + kPluginSuffix + " is not in " + join(options_.driver_folders, ", "),
                 have.empty() ? "set BATON_DRIVER_PATH to the folder of the drivers" : "installed drivers: " + join(have, ", "));
  }
  auto lib = load(path, scheme);
  if (!lib) return lib.error();
  return &libraries_.emplace(scheme, std::move(*lib)).first->second->table;
}

Result<const baton_layer*> Registry::layer(const std::string& name) {
  std::lock_guard lock(mu_);
  if (auto it = layers_.find(name); it != layers_.end()) return &it->second->layer;
  const std::string file = kLayerPrefix + name + kPluginSuffix;
  std::string path = find_file(options_.driver_folders, file, R_OK);
  if (path.empty()) {
    std::vector<std::string> have = names_of(options_.driver_folders, kLayerPrefix);
    return Error(BATON_NOT_FOUND, "no layer '" + name + "': " + file + " is not in " + join(options_.driver_folders, ", "),
                 have.empty() ? "set BATON_DRIVER_PATH to the folder of the drivers and layers" : "installed layers: " + join(have, ", "));
  }
  BATON_ASSIGN(auto lib, load_layer(path, name));
  return &layers_.emplace(name, std::move(lib)).first->second->layer;
}

Result<std::string> Registry::resolve(const std::string& text) {
  BATON_ASSIGN(Uri uri, parse_uri(text));
  if (!uri.emulated) return text;
  std::lock_guard lock(mu_);
  std::erase_if(emulators_, [](Emulator& e) { return !e.process->running(); });
  for (Emulator& e : emulators_)
    if (e.scheme == uri.scheme && e.process->argument() == uri.rest) return e.process->address();
  return launch(uri);
}

Result<std::string> Registry::launch(const Uri& uri) {
  std::string name = "baton-emu-" + uri.scheme;
  std::string program = find_file(options_.emulator_folders, name, X_OK);
  if (program.empty())
    return Error(BATON_NOT_FOUND, "no emulator for '" + uri.scheme + "': " + name + " is not in " + join(options_.emulator_folders, ", "),
                 "set BATON_EMULATOR_PATH to the folder of the emulators, or open " + uri.scheme + "://... for hardware");
  BATON_ASSIGN(auto process, EmulatorProcess::start(program, uri.rest));
  std::string address = process->address();
  auto parsed = parse_uri(address);
  if (!parsed || parsed->emulated)
    return Error(BATON_FAILED, program + " printed '" + address.substr(0, 120) + "', which is not an ordinary address",
                 "its first line of output must be SCHEME://ADDRESS without emu+");
  emulators_.push_back({uri.scheme, std::move(process)});
  return address;
}

void Registry::reap() {
  std::unique_lock lock(mu_, std::try_to_lock);
  if (!lock) return;  // somebody is launching, which reaps too
  std::erase_if(emulators_, [](Emulator& e) { return !e.process->running(); });
}

void Registry::end_emulators() {
  std::lock_guard lock(mu_);
  emulators_.clear();
}

}  // namespace baton::core
