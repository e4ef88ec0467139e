// report: what somebody else needs to look into this machine, as a tar: everything that devctl reads, and no secret.
#include "tools/devctl/care.h"
#include "tools/devctl/files.h"
#include "tools/devctl/tar.h"
#include "tools/devctl/watch.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <sstream>
#include <unistd.h>

namespace baton::devctl {
namespace {

// Of the kernel's modules those that this is about.
std::string modules() {
  std::istringstream lines(whole_file("/proc/modules"));
  std::string out;
  for (std::string line; std::getline(lines, line);)
    for (const char* word : {"neuron", "efa", "ib_", "mlx", "rdma", "irdma", "bnxt"})
      if (line.starts_with(word)) {
        out += line.substr(0, line.find(' ')) + "\n";
        break;
      }
  return out;
}

}  // namespace

int report(const Context& c, const std::string& file) {
  json body = take_snapshot(c, false);
  const std::string name = file.empty() ? fmt::format("baton-report-{}.tar", body.at("taken").get<std::string>()) : file;
  Tar tar("baton-report");
  tar.add("snapshot.json", document_text("snapshot", body));
  for (const Reading& r : readings())
    if (const json& doc = body["documents"][r.name]; !doc.contains("error") && std::string_view(r.name) == "stats") tar.add("stats.prom", prometheus_text(doc));
  tar.add("kernel.txt", first_line("/proc/version") + "\n\nmodules:\n" + modules());
  tar.add("limits.txt", whole_file("/proc/self/limits"));
  tar.add("memory.txt", whole_file("/proc/meminfo"));
  tar.add("README", "Made by devctl report. Read snapshot.json with: devctl --from snapshot.json health (or list, info, topo, who, stats, fabric, env, version).\n"
                    "It holds command lines and addresses of this machine; no key, no file's content, and no variable whose name says that it is a secret.\n");
  const std::string bytes = tar.bytes();
  const int fd = open(name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  const bool written = fd >= 0 && write(fd, bytes.data(), bytes.size()) == ssize_t(bytes.size());
  const int why = errno;
  if (fd >= 0) close(fd);
  if (!written)
    return c.out.fail(Error(why == EEXIST ? BATON_BUSY : BATON_IO, fmt::format("{}: {}", name, std::strerror(why)), why == EEXIST ? "name another file" : "name a file in a folder that exists and is writable"));
  if (c.out.is_json()) c.out.document("report", {{"file", name}, {"bytes", bytes.size()}});
  else c.out.print(fmt::format("{}  {}\nnext: look into it, then send it: tar -xOf {} baton-report/README\n", name, bytes_text(bytes.size()), name));
  return kOk;
}

}  // namespace baton::devctl
