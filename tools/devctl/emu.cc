#include "tools/devctl/emu.h"

#include "tools/devctl/files.h"
#include "tools/devctl/pages.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <fstream>

extern char** environ;

namespace baton::devctl {
namespace {

namespace fs = std::filesystem;
constexpr uint64_t kStartMs = 60'000, kEndMs = 5'000;  // a machine is some 10,000 files of sysfs

Result<std::string> folder_of(const Context& c) {
  const std::string run = c.devices.instance().stats_folder();
  if (run.empty()) return Error(BATON_UNSUPPORTED, "there is no run folder to remember emulated systems in", "set BATON_RUN_DIR to a folder of yours");
  const std::string folder = run + "/emu";
  if (mkdir(folder.c_str(), 0700) && errno != EEXIST) return Error(BATON_IO, fmt::format("{}: {}", folder, std::strerror(errno)), "set BATON_RUN_DIR to a folder of yours");
  return folder;
}

// Field 22 of /proc/PID/stat, as pages.h compares it.
uint64_t start_of(pid_t pid) {
  const std::string stat = first_line(fmt::format("/proc/{}/stat", pid));
  size_t at = stat.rfind(')');
  for (int field = 2; field < 22 && at != std::string::npos; ++field) at = stat.find(' ', at + 1);
  return at == std::string::npos ? 0 : strtoull(stat.c_str() + at, nullptr, 10);
}

std::vector<json> systems(const std::string& folder) {
  std::vector<json> all;
  for (const std::string& name : names_in(folder)) {
    if (!name.ends_with(".json")) continue;
    json j = json::parse(whole_file(folder + "/" + name), nullptr, false);
    if (!j.is_object() || !j.contains("name") || !j.contains("address") || !j.contains("pid") || !j.contains("started") || !j.contains("folder") || !j.contains("since")) continue;
    const pid_t pid = j.at("pid");
    j["alive"] = pid ? lives(uint32_t(pid), j.at("started")) : fs::exists(j.at("folder").get<std::string>());
    all.push_back(std::move(j));
  }
  return all;
}

// Of a system, as it is shown: how it was started is our business.
json shown(json j) {
  j.erase("started");
  return j;
}

struct Started {
  pid_t pid = 0;
  std::string line, complaint;
  bool ended = false;  // without a line, or after it
};

// Runs a program on its own, and reads its first line.
Result<Started> start(std::vector<std::string> words, const std::string& log) {
  int out[2];
  if (pipe2(out, O_CLOEXEC)) return Error(BATON_IO, fmt::format("pipe: {}", std::strerror(errno)), "");
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, out[1], 1);
  posix_spawn_file_actions_addopen(&actions, 2, log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  posix_spawnattr_t how;
  posix_spawnattr_init(&how);
  posix_spawnattr_setflags(&how, POSIX_SPAWN_SETSID);
  std::vector<char*> argv;
  for (std::string& w : words) argv.push_back(w.data());
  argv.push_back(nullptr);
  Started s;
  const int rc = posix_spawn(&s.pid, argv[0], &actions, &how, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&how);
  close(out[1]);
  if (rc) {
    close(out[0]);
    return Error(BATON_FAILED, fmt::format("{}: {}", words[0], std::strerror(rc)), "devctl version shows which emulators were found");
  }
  for (const uint64_t until = now_ns() + kStartMs * 1'000'000; now_ns() < until && s.line.find('\n') == std::string::npos;) {
    pollfd p{out[0], POLLIN, 0};
    if (poll(&p, 1, 100) <= 0) continue;
    char part[512];
    const ssize_t n = read(out[0], part, sizeof part);
    if (n <= 0) break;
    s.line.append(part, size_t(n));
  }
  close(out[0]);
  s.line.resize(std::min(s.line.size(), s.line.find('\n')));
  if (s.line.empty()) {
    kill(s.pid, SIGKILL);
    waitpid(s.pid, nullptr, 0);
    s.ended = true;
  } else {
    usleep(20'000);  // a launcher ends after its line
    s.ended = waitpid(s.pid, nullptr, WNOHANG) == s.pid;
  }
  std::string text = whole_file(log, 4096);
  s.complaint = text.substr(0, text.find('\n'));
  return s;
}

Result<json> bring_up(const Context& c, const EmuCall& call) {
  BATON_ASSIGN(std::string folder, folder_of(c));
  const size_t colon = call.address.find("://");
  if (!call.address.starts_with("emu+") || colon == std::string::npos)
    return Error(BATON_INVALID_ARGUMENT, fmt::format("'{}' is no address of an emulator", clean(call.address).substr(0, 100)), "write emu+cs3://0 or emu+neuron://0?machine=trn2.48xlarge");
  const std::string scheme = call.address.substr(4, colon - 4), rest = call.address.substr(colon + 3);
  const std::string program = emulator_program(scheme);
  if (program.empty()) return Error(BATON_NOT_FOUND, fmt::format("no emulator is called '{}'", clean(scheme)), "devctl version lists them");
  std::string name = call.name;
  for (int n = 0; name.empty(); ++n)
    if (const std::string free = fmt::format("{}-{}", scheme, n); !fs::exists(folder + "/" + free + ".json")) name = free;
  if (name.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != std::string::npos)
    return Error(BATON_INVALID_ARGUMENT, fmt::format("'{}' is no name", clean(name).substr(0, 60)), "use letters, digits, - and _");
  const std::string file = folder + "/" + name + ".json";
  for (auto& j : systems(folder))
    if (j.at("name") == name && j.at("alive")) return Error(BATON_BUSY, fmt::format("{} is up already: {}", name, j.at("address").get<std::string>()), "choose another --name, or devctl emu down " + name);

  const bool machine = scheme == "neuron";  // a library and a folder; nothing runs
  std::vector<std::string> words = {program};
  if (machine) {
    const char* separator = rest.find('?') == std::string::npos ? "?" : "&";
    words.push_back(rest.find("folder=") == std::string::npos ? fmt::format("{}{}folder={}", rest, separator, folder + "/" + name) : rest);
  } else {
    words.insert(words.end(), {"--listen", call.listen});
    for (size_t at = rest.find('?'); at != std::string::npos && at + 1 < rest.size();) {
      const size_t end = rest.find('&', at + 1);
      const std::string pair = rest.substr(at + 1, end == std::string::npos ? end : end - at - 1), key = pair.substr(0, pair.find('='));
      std::string flag = "--" + key;
      for (char& ch : flag)
        if (ch == '_') ch = '-';
      words.insert(words.end(), {flag, pair.size() > key.size() ? pair.substr(key.size() + 1) : ""});
      at = end;
    }
  }
  BATON_ASSIGN(Started s, start(words, folder + "/" + name + ".log"));
  if (s.line.empty() || (s.ended && !machine)) {
    std::error_code ignored;
    if (machine) fs::remove_all(folder + "/" + name, ignored);
    return Error(s.complaint.find("in use") != std::string::npos ? BATON_BUSY : BATON_FAILED, fmt::format("{} did not come up{}{}", scheme, s.complaint.empty() ? "" : ": ", clean(s.complaint)), fmt::format("see {}/{}.log", folder, name));
  }
  const size_t sysfs = s.line.rfind("&sysfs=");
  const std::string where = sysfs == std::string::npos ? "" : s.line.substr(sysfs + 7);
  json j = {{"name", name}, {"address", s.line}, {"pid", s.ended ? 0 : s.pid}, {"started", s.ended ? 0 : start_of(s.pid)}, {"folder", where.ends_with("/sys") ? where.substr(0, where.size() - 4) : ""},
            {"since", utc_text(uint64_t(std::time(nullptr)) * 1'000'000'000)}};
  std::ofstream out(file, std::ios::trunc);
  out << j.dump() << "\n";
  if (!out.flush()) return Error(BATON_IO, fmt::format("{}: cannot be written", file), "");
  j["alive"] = true;
  return shown(j);
}

// False: it is there still.
bool end_process(pid_t pid, uint64_t started) {
  for (int signal : {SIGTERM, SIGKILL}) {
    if (!lives(uint32_t(pid), started)) return true;
    kill(pid, signal);
    for (const uint64_t until = now_ns() + kEndMs * 1'000'000; now_ns() < until;) {
      if (!lives(uint32_t(pid), started)) return true;
      usleep(10'000);
    }
  }
  return !lives(uint32_t(pid), started);
}

Status bring_down(const std::string& folder, const json& j) {
  const std::string name = j.at("name"), where = j.at("folder");
  const pid_t pid = j.at("pid");
  if (pid && j.at("alive") && !end_process(pid, j.at("started"))) return Error(BATON_FAILED, fmt::format("process {} of {} does not end", pid, name), "look at it: devctl who");
  if (!where.empty()) {
    for (auto& h : core_holders(where))
      return Error(BATON_BUSY, fmt::format("{} of {} is held by process {} ({})", h.what, name, h.pid, clean(h.command).substr(0, 60)), fmt::format("end it first: kill {}", h.pid));
    std::error_code ignored;
    if (where == folder + "/" + name) fs::remove_all(where, ignored);  // ours; a folder that was named stays
  }
  unlink((folder + "/" + name + ".log").c_str());
  unlink((folder + "/" + name + ".json").c_str());
  return {};
}

std::string systems_text(const json& doc) {
  Table t({"NAME", "STATE", "PID", "SINCE", "ADDRESS"});
  for (auto& s : doc.at("systems")) {
    const std::string address = s.at("address");
    t.row({s.at("name"), s.at("alive") ? "up" : "gone", s.at("pid") == 0 ? "-" : std::to_string(s.at("pid").get<int>()), s.at("since"), clean(address)});
  }
  return t.empty() ? "no emulated system is up; devctl emu up emu+cs3://0 starts one\n" : t.text();
}

}  // namespace

std::vector<json> emulated_systems(const Context& c) {
  std::vector<json> all;
  if (const std::string run = c.devices.instance().stats_folder(); !run.empty())
    for (json& j : systems(run + "/emu")) all.push_back(shown(std::move(j)));
  return all;
}

Status emu_restart(const Context& c, const std::string& name) {
  BATON_ASSIGN(const std::string folder, folder_of(c));
  for (json& j : systems(folder)) {
    const pid_t pid = j.at("pid");
    if (j.at("name") != name || !pid || !j.at("alive")) continue;
    // As it was started, but for the port, which is the one that it got.
    const std::string line = whole_file(fmt::format("/proc/{}/cmdline", pid), 1 << 16), address = j.at("address");
    std::vector<std::string> words;
    for (size_t at = 0; at < line.size(); at = line.find('\0', at) + 1) words.push_back(line.c_str() + at);
    const auto listen = std::find(words.begin(), words.end(), "--listen");
    const size_t place = address.find("://");
    if (listen == words.end() || listen + 1 == words.end() || place == std::string::npos) return Error(BATON_FAILED, fmt::format("process {} of {} does not say how it was started", pid, name), "devctl emu down " + name + ", then up");
    *(listen + 1) = address.substr(place + 3);
    if (!end_process(pid, j.at("started"))) return Error(BATON_FAILED, fmt::format("process {} of {} does not end", pid, name), "look at it: devctl who");
    BATON_ASSIGN(const Started s, start(words, folder + "/" + name + ".log"));
    if (s.line != address || s.ended) return Error(BATON_FAILED, fmt::format("{} did not come up again{}{}", name, s.complaint.empty() ? "" : ": ", clean(s.complaint)), fmt::format("devctl emu down {0}, then devctl emu up --name {0}", name));
    j["pid"] = s.pid;
    j["started"] = start_of(s.pid);
    j["since"] = utc_text(uint64_t(std::time(nullptr)) * 1'000'000'000);
    j.erase("alive");
    std::ofstream out(folder + "/" + name + ".json", std::ios::trunc);
    out << j.dump() << "\n";
    return out.flush() ? Status() : Status(Error(BATON_IO, fmt::format("{}/{}.json: cannot be written", folder, name), ""));
  }
  return Error(BATON_NOT_FOUND, fmt::format("no daemon called '{}' is up", clean(name).substr(0, 60)), "devctl emu ls");
}

int emu_up(const Context& c, const EmuCall& call) {
  auto made = bring_up(c, call);
  return c.out.show("emu.up", made, [](const json& j) { return fmt::format("{} is up\n{}\n", j.at("name").get<std::string>(), j.at("address").get<std::string>()); });
}

int emu_ls(const Context& c) {
  auto folder = folder_of(c);
  if (!folder) return c.out.fail(folder.error());
  return c.out.show("emu.ls", json{{"systems", emulated_systems(c)}}, systems_text);
}

int emu_down(const Context& c, const std::string& name) {
  auto folder = folder_of(c);
  if (!folder) return c.out.fail(folder.error());
  json ended = json::array();
  Status wrong;
  for (auto& j : systems(*folder)) {
    if (name != "all" && j.at("name") != name) continue;
    if (Status s = bring_down(*folder, j); s.ok()) ended.push_back(j.at("name"));
    else wrong = s;
  }
  if (!wrong.ok()) return c.out.fail(wrong.error());
  if (ended.empty() && name != "all") return c.out.fail(kNoDevice, fmt::format("no emulated system is called '{}'", clean(name).substr(0, 60)), "devctl emu ls");
  return c.out.show("emu.down", json{{"ended", ended}}, [](const json& doc) {
    std::string text;
    for (auto& n : doc.at("ended")) text += n.get<std::string>() + " is down\n";
    return text.empty() ? std::string("none was up\n") : text;
  });
}

}  // namespace baton::devctl
