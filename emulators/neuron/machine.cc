#include "emulators/neuron/machine.hpp"

#include "emulators/neuron/model.hpp"
#include "emulators/neuron/timing.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

namespace baton::neuron_emu {
namespace {

// One lock file a core; the holder writes its pid, so that the refusal can name it.
Status lock_core(const std::string& folder, Core& core) {
  std::string path = folder + "/core" + std::to_string(core.logical);
  core.lock_fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (core.lock_fd < 0) return Error(BATON_IO, path + ": " + std::strerror(errno), "name a folder that exists and is writable");
  if (flock(core.lock_fd, LOCK_EX | LOCK_NB)) {
    char holder[32] = {};
    (void)!pread(core.lock_fd, holder, sizeof holder - 1, 0);
    return Error(BATON_BUSY, "logical core " + std::to_string(core.logical) + " is held by process " + holder, "end it or take other cores");
  }
  std::string pid = std::to_string(getpid());
  (void)!ftruncate(core.lock_fd, 0);
  (void)!pwrite(core.lock_fd, pid.data(), pid.size(), 0);
  return {};
}

}  // namespace

Core::~Core() {
  if (lock_fd >= 0) close(lock_fd);
}

Storage::~Storage() {
  if (hbm) hbm->release(hbm_offset);
  if (owned_host) std::free(data);
}

std::shared_ptr<nrt::Tensor> TensorSet::find(const std::string& name) {
  std::lock_guard lock(mutex);
  auto it = tensors.find(name);
  return it == tensors.end() ? nullptr : it->second.second;
}

Result<std::shared_ptr<Machine>> Machine::create(Options options) {
  auto m = std::make_shared<Machine>();
  m->options = std::move(options);
  const Options& o = m->options;
  BATON_ASSIGN(m->cost, make_cost_model(o));
  m->stacks.resize(o.chips * kHbmPerChip);
  for (uint32_t logical : o.cores) {
    auto core = std::make_unique<Core>();
    core->vnc = uint32_t(m->cores.size());
    core->logical = logical;
    core->chip = logical / o.logical_per_chip();
    core->hbm_index = logical % o.logical_per_chip() * kHbmPerChip / o.logical_per_chip();
    if (!o.machine.empty()) BATON_TRY(lock_core(o.machine, *core));
    auto& stack = m->stacks[core->chip * kHbmPerChip + core->hbm_index];
    if (!stack) {
      BATON_ASSIGN(stack, Hbm::create(std::to_string(core->chip) + "-hbm" + std::to_string(core->hbm_index), kHbmBytes));
    }
    core->hbm = stack;
    m->cores.push_back(std::move(core));
  }
  return m;
}

}  // namespace baton::neuron_emu
