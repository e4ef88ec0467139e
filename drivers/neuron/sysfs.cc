#include "drivers/neuron/sysfs.hpp"

#include "drivers/neuron/quirks.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <ctime>

namespace baton::neuron {
namespace {

constexpr uint32_t kMaxChips = 64;                      // driver neuron_device.h
constexpr uint64_t kResetPatienceNs = 60'000'000'000;   // guess: a reset takes some seconds

std::vector<uint32_t> numbers(const std::string& list) {
  std::vector<uint32_t> all;
  for (const char* p = list.data(), *end = p + list.size(); p < end;) {
    uint32_t n = 0;
    auto [next, ec] = std::from_chars(p, end, n);
    if (ec == std::errc()) all.push_back(n);
    p = ec == std::errc() ? next : p + 1;
  }
  return all;
}

}  // namespace

std::string Sysfs::device(uint32_t chip) const { return fmt::format("{}/devices/virtual/neuron_device/neuron{}", root_, chip); }

std::optional<std::string> Sysfs::text(const std::string& path) const {
  int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return std::nullopt;
  char buffer[256];
  const ssize_t n = ::read(fd, buffer, sizeof buffer);
  ::close(fd);
  if (n < 0) return std::nullopt;
  std::string s(buffer, size_t(n));
  while (!s.empty() && (s.back() == '\n' || s.back() == ' ')) s.pop_back();
  return s;
}

uint64_t Sysfs::number(const std::string& path) const {
  const std::string s = text(path).value_or("");
  uint64_t n = 0;
  std::from_chars(s.data(), s.data() + s.size(), n);
  return n;
}

std::vector<SysfsChip> Sysfs::chips() const {
  std::vector<SysfsChip> all;
  for (uint32_t i = 0; i < kMaxChips; ++i) {
    const std::string at = device(i);
    if (access(at.c_str(), F_OK)) continue;
    SysfsChip c{i, uint32_t(number(at + "/core_count")), "", numbers(text(at + "/connected_devices").value_or(""))};
    for (const char* name : kSysfsDeviceNames)
      if (c.device.empty()) c.device = text(at + "/info/architecture/" + name).value_or("");
    all.push_back(std::move(c));
  }
  return all;
}

// A counter of executions by its name of today or an older one.
uint64_t Sysfs::status(const std::string& core, const char* name) const {
  const std::string at = core + "/stats/status/";
  if (auto s = text(at + name + "/total")) return number(at + name + "/total");
  for (const SysfsAlias& a : kSysfsStatusAliases)
    if (!std::strcmp(a.now, name)) return number(at + a.before + "/total");
  return 0;
}

std::optional<Health> Sysfs::health(uint32_t chip) const {
  const std::string at = device(chip), hardware = at + "/stats/hardware/";
  if (access(at.c_str(), F_OK)) return std::nullopt;
  Health h;
  for (const SysfsEcc& e : kSysfsEcc) {
    if (access((hardware + e.name).c_str(), R_OK)) continue;
    h.has_ecc = true;
    (e.corrected ? h.ecc_corrected : h.ecc_uncorrected) += number(hardware + e.name);
  }
  h.unhealthy = text(hardware + kSysfsUnhealthy).value_or("");
  for (const char* nobody : kSysfsNobody)
    if (h.unhealthy == nobody) h.unhealthy.clear();
  unsigned long long epoch = 0;
  double least = 0, most = 0, average = 0;
  const std::string power = text(at + "/stats/power/utilization").value_or("");
  if (std::sscanf(power.c_str(), "POWER_STATUS_VALID,%llu,%lf,%lf,%lf", &epoch, &least, &most, &average) == 4) {
    h.has_power = true;
    h.power_percent = average;
  }
  for (uint32_t k = 0;; ++k) {
    const std::string core = fmt::format("{}/neuron_core{}", at, k);
    if (access(core.c_str(), F_OK)) break;
    h.executed += status(core, "success");
    h.failed += status(core, "failure");
    for (const SysfsStatus& s : kSysfsStatuses)
      if (s.hardware) h.hw_errors += status(core, s.name);
    h.memory_bytes += number(core + "/stats/memory_usage/device_mem/total");
  }
  return h;
}

std::string Sysfs::driver_version() const { return text(root_ + "/module/neuron/version").value_or(""); }

Status Sysfs::reset(uint32_t chip) const {
  const std::string path = device(chip) + "/reset";
  int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) {
    const int why = errno;
    return Error(why == ENOENT ? BATON_UNSUPPORTED : BATON_PERMISSION, fmt::format("{}: {}", path, std::strerror(why)), "run as root, or reset the cores alone: close the device");
  }
  const bool asked = ::write(fd, "1", 1) == 1;
  const int why = errno;
  ::close(fd);
  if (!asked) return Error(why == EBUSY ? BATON_BUSY : BATON_FAILED, fmt::format("{}: {}", path, std::strerror(why)), "end the processes that have the chip open (neuron-ls)");
  for (const uint64_t deadline = now_ns() + kResetPatienceNs; now_ns() < deadline;) {
    const std::string state = text(path).value_or("");
    if (state.starts_with("1")) return {};
    if (state.starts_with("2")) return Error(BATON_DEVICE_LOST, fmt::format("neuron{} is invalid after its reset", chip), "reboot the instance; if it stays so, replace it");
    const timespec pause{0, 10'000'000};
    nanosleep(&pause, nullptr);
  }
  return Error(BATON_DEADLINE, fmt::format("neuron{} is not ready {} s after its reset was asked for", chip, kResetPatienceNs / 1'000'000'000), "see dmesg");
}

std::string troubles(const Health& before, const Health& now) {
  std::string text;
  auto add = [&](uint64_t was, uint64_t is, const char* what) {
    const uint64_t n = is > was ? is - was : 0;  // fewer: somebody cleared it
    if (n) text += fmt::format("{}{} {}{}", text.empty() ? "" : ", ", n, what, n == 1 ? "" : "s");
  };
  add(before.ecc_uncorrected, now.ecc_uncorrected, "uncorrectable ECC error");
  add(before.ecc_corrected, now.ecc_corrected, "corrected ECC error");
  add(before.hw_errors, now.hw_errors, "hardware error");
  add(before.failed, now.failed, "failed execution");
  return text;
}

std::optional<std::pair<uint32_t, uint32_t>> release_of(const std::string& version) {
  unsigned major = 0, minor = 0;
  if (std::sscanf(version.c_str(), "%u.%u", &major, &minor) != 2) return std::nullopt;
  return std::pair<uint32_t, uint32_t>(major, minor);
}

}  // namespace baton::neuron
