#include "transport/ofi_library.hpp"

#include <fmt/format.h>

#include <dlfcn.h>

#include <csignal>
#include <string>

namespace baton::transport {
namespace {

constexpr char kName[] = "libfabric.so.1";
constexpr int kTaken[] = {SIGSEGV, SIGBUS, SIGILL, SIGABRT, SIGINT, SIGTERM}; // by libpsm_infinipath's constructor, as strace shows

struct Loaded {
  OfiLibrary library;
  std::string problem;
};

Loaded load() {
  struct sigaction had[std::size(kTaken)];
  sigset_t held, before; // what comes meanwhile waits for the process's own handlers, at least on this thread
  sigemptyset(&held);
  for (size_t i = 0; i < std::size(kTaken); ++i) sigaction(kTaken[i], nullptr, &had[i]), sigaddset(&held, kTaken[i]);
  pthread_sigmask(SIG_BLOCK, &held, &before);
  void* const handle = dlopen(kName, RTLD_NOW | RTLD_LOCAL);
  for (size_t i = 0; i < std::size(kTaken); ++i) sigaction(kTaken[i], &had[i], nullptr);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  Loaded l;
  if (!handle) {
    const char* why = dlerror();
    l.problem = why ? why : kName;
    return l;
  }
  auto find = [&](auto& function, const char* name) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(handle, name));
    if (!function) l.problem = fmt::format("{} has no {}", kName, name);
  };
  find(l.library.getinfo, "fi_getinfo");
  find(l.library.freeinfo, "fi_freeinfo");
  find(l.library.dupinfo, "fi_dupinfo");
  find(l.library.fabric, "fi_fabric");
  find(l.library.strerror, "fi_strerror");
  return l;
}

}  // namespace

Result<const OfiLibrary*> ofi_library() {
  static const Loaded loaded = load();
  if (!loaded.problem.empty()) return Error(BATON_UNSUPPORTED, fmt::format("libfabric cannot be loaded: {}", loaded.problem), "install libfabric1, or use the fabric mapped or verbs");
  return &loaded.library;
}

}  // namespace baton::transport
