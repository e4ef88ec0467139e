// layers_test.hpp: an instance with layers named, and files for them. On top of hal_test.hpp.
#pragma once

#include "tests/unit/hal_test.hpp"

#include <unistd.h>

#include <fstream>
#include <iterator>
#include <string>

namespace baton::test {

// A file in /tmp that is gone with the object.
class ScratchFile {
 public:
  explicit ScratchFile(const std::string& contents = "") {
    int fd = mkstemp(path_);
    ssize_t n = write(fd, contents.data(), contents.size());
    EXPECT_EQ(size_t(n), contents.size());
    ::close(fd);
  }
  ~ScratchFile() { unlink(path_); }
  ScratchFile(const ScratchFile&) = delete;
  std::string path() const { return path_; }
  std::string read() const {
    std::ifstream f(path_, std::ios::binary);
    return {std::istreambuf_iterator<char>(f), {}};
  }

 private:
  char path_[32] = "/tmp/baton-layers-XXXXXX";
};

inline Result<Instance> try_layered(const std::string& layers) {
  baton_instance_options o{sizeof o, 0, kDrivers, BATON_BUILD_DIR "/lib/baton", layers.c_str()};
  return Instance::create(&o);
}
inline Instance layered(const std::string& layers) { return must(try_layered(layers)); }

// A device with a queue, a timeline, and 4 KiB of memory of it and of the host, mapped.
struct Rig {
  Instance in;
  Device device, host;
  Queue queue;
  Timeline t;
  Buffer memory, plain;
  uint8_t* bytes;

  static constexpr uint64_t kBytes = 4096;
  Rig(const std::string& layers, const std::string& uri)
      : in(layered(layers)), device(must(in.open(uri))), host(must(in.open("host://side"))), queue(must(device.queue())),
        t(must(in.timeline("t"))), memory(must(device.alloc(kBytes))), plain(must(host.alloc(kBytes))),
        bytes(static_cast<uint8_t*>(must(plain.map()))) {}
  // Submits, and waits for `signalled` of t.
  Status run(const Op& op, uint64_t signalled) {
    BATON_TRY(queue.submit(op));
    return t.wait_until(signalled, soon());
  }
};

}  // namespace baton::test
