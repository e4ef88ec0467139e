#include "emulators/neuron/machine.hpp"

#include "emulators/neuron/model.hpp"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>

namespace baton::neuron_emu {

Core::Core(HeldCore h, const Options& o, const MachinePage& page, uint32_t number) : held(std::move(h)), vnc(number), logical(held.logical()) {
  chip = logical / o.logical_per_chip();
  hbm_index = logical % o.logical_per_chip() * o.machine.chip.stacks() / o.logical_per_chip();
  counters = &page.core(chip, logical % o.logical_per_chip() * o.lnc);
  chip_counters = &page.chip(chip);
  // What the core's last process had is gone, also if it was killed; and a core is reset when it is taken.
  counters->release_memory();
  counters->lost = 0;
  counters->busy_since_ns = 0;
  if (chip_counters->lost.exchange(0)) ++chip_counters->reset_requests;
  resets = chip_counters->reset_requests;
  counters->holder = uint64_t(getpid());
}

Core::~Core() {
  counters->release_memory();
  counters->holder = 0;
}

Storage::~Storage() {
  if (hbm) core->counters->use(DeviceMemory::tensors, -int64_t(hbm->release(hbm_offset)));
  if (host) {
    host->change(-int64_t(bytes));
    std::free(data);
  }
}

std::shared_ptr<nrt::Tensor> TensorSet::find(const std::string& name) {
  std::lock_guard lock(mutex);
  auto it = tensors.find(name);
  return it == tensors.end() ? nullptr : it->second.second;
}

namespace {

// What cores of other processes use of a stack of a shared machine; those of a process that was killed are free (LNC 1 of trn2: two cores a stack).
std::function<uint64_t()> use_elsewhere(Machine& m, uint32_t chip, uint32_t hbm) {
  std::vector<CoreCounters*> others;
  const uint32_t cores = m.options.machine.chip.cores, per_stack = cores / m.options.machine.chip.stacks();
  for (uint32_t k = 0; k < cores; ++k)
    if (k / per_stack == hbm) others.push_back(&m.page.core(chip, k));
  return [others] {
    uint64_t bytes = 0;
    for (CoreCounters* c : others)
      if (const auto holder = pid_t(c->holder.load()); holder && holder != getpid() && (kill(holder, 0) == 0 || errno == EPERM))
        bytes += uint64_t(std::max<int64_t>(0, int64_t(c->device_total.total.load())));
    return bytes;
  };
}

}  // namespace

Result<std::shared_ptr<Machine>> Machine::create(Options o) {
  BATON_ASSIGN(FaultPlan faults, FaultPlan::read(o.faults));
  BATON_ASSIGN(auto cost, make_cost(o));
  BATON_ASSIGN(Site site, Site::open(o.folder, o.runtime_folder));
  BATON_ASSIGN(MachinePage page, MachinePage::open(site.folder(), {o.chips, o.machine.chip.cores}));
  BATON_ASSIGN(std::vector<HeldCore> held, o.any_cores ? site.take_free(uint32_t(o.cores.size()), o.total_logical()) : site.take(o.cores));

  SharedGroup::sweep(site);

  auto m = std::make_shared<Machine>(std::move(site), std::move(page));
  m->options = std::move(o);
  m->faults = std::move(faults);
  m->cost = std::move(cost);
  const MachineData& data = m->options.machine;
  m->stacks.resize(m->options.chips * data.chip.stacks());
  for (HeldCore& h : held) {
    auto core = std::make_unique<Core>(std::move(h), m->options, m->page, uint32_t(m->cores.size()));
    m->options.cores[core->vnc] = core->logical;
    auto& stack = m->stacks[core->chip * data.chip.stacks() + core->hbm_index];
    if (!stack) {
      BATON_ASSIGN(stack, Hbm::create(std::to_string(core->chip) + "-hbm" + std::to_string(core->hbm_index), data.chip.hbm_bytes,
                                      {.strict = m->options.strict, .visibility = m->options.visibility}));
      if (!m->site.folder().empty()) stack->share(use_elsewhere(*m, core->chip, core->hbm_index));
    }
    core->hbm = stack;
    m->cores.push_back(std::move(core));
  }
  if (!m->site.folder().empty()) {
    const uint32_t lnc = m->options.lnc, per_chip = m->options.logical_per_chip();
    std::vector<CoreId> own;
    for (const auto& core : m->cores)
      for (uint32_t i = 0; i < lnc; ++i) own.push_back({core->chip, core->logical % per_chip * lnc + i});
    BATON_ASSIGN(m->sysfs, SysfsTree::open(m->site.folder(), data, m->options.chips, std::move(own)));
  }
  return m;
}

}  // namespace baton::neuron_emu
