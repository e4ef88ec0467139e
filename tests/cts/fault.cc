#include "tests/cts/fault.h"

#include "hal/program/program.hpp"

#include <dirent.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>

namespace baton::cts {
namespace {

constexpr int64_t kWidth = 16, kRows = 4;
constexpr int64_t kArgs[2] = {kRows, 0};

// y = 2x, one mark.
std::vector<uint8_t> doubling() {
  using namespace program;
  Builder b("doubling");
  b.program().max_tokens = b.program().max_context = kRows;
  b.program().args = {Arg::tokens, Arg::position};
  const uint32_t x = b.value("x", DType::f32, Storage::input, {kTokens, kWidth}), y = b.value("y", DType::f32, Storage::output, {kTokens, kWidth});
  b.matmul(x, b.constant("w", DType::f32, {kWidth, kWidth}), Act::f32, 1, -1, int64_t(y));
  b.mark();
  return serialize(must(std::move(b).finish()));
}

}  // namespace

Holding holding() {
  Holding h;
  DIR* dir = opendir("/proc/self/fd");
  while (readdir(dir)) ++h.descriptors;
  closedir(dir);
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);)
    h.shared_mappings += line.find("/memfd:") != std::string::npos || line.find("/dev/shm/") != std::string::npos;
  return h;
}

std::string device_of(const Fixture& f) {
  const std::string scheme = f.info().driver;
  return scheme == "host" ? f.info().uri : scheme + "://*";
}

std::ostream& operator<<(std::ostream& o, const Holding& h) {
  return o << h.descriptors << " descriptors, " << h.shared_mappings << " mappings of shared memory";
}

Faulty::Faulty(Fixture& f, const std::string& plan, bool open) : uri(f.subject().uri), code_(doubling()), weights_(kWidth * kWidth, 0) {
  for (int64_t i = 0; i < kWidth; ++i) weights_[size_t(i * kWidth + i)] = 2;
  f.device.reset();  // a device may have one holder
  const int fd = mkstemp(path_);
  EXPECT_EQ(write(fd, plan.data(), plan.size()), ssize_t(plan.size()));
  close(fd);
  setenv("BATON_LAYERS", (std::string("fault=") + path_).c_str(), 1);
  auto made = Instance::create();
  unsetenv("BATON_LAYERS");
  in = must(std::move(made));
  if (!open) return;
  device = must(in.open(uri));
  equip();
}

Faulty::~Faulty() { unlink(path_); }

Result<Program> Faulty::load() const {
  const baton_constant w{"w", weights_.data(), weights_.size() * sizeof(float)};
  return device.load(code_, {&w, 1});
}

void Faulty::equip() {
  if (!host) {
    host = must(in.open("host://fault-side"));
    plain = must(host.alloc(kBytes));
    bytes = Fixture::mapped(plain);
  }
  queue.reset();
  program.reset();
  memory = must(device.alloc(kBytes));
  program = must(load());
  queue = must(device.queue());
  // The memory is written before anything reads it: a device may insist.
  must(submit(op(BATON_OP_FILL, 0)).wait_until(1, soon()));
}

Op Faulty::op(uint8_t opcode, uint32_t tag) {
  constexpr uint64_t kHalf = kBytes / 2, kTensor = uint64_t(kRows * kWidth) * sizeof(float);
  switch (opcode) {
    case BATON_OP_COPY: return copy(memory, 0, plain, 0, kBytes).tagged(tag);
    case BATON_OP_FILL: return fill(memory, 0, kBytes, 0x3f800000, 4).tagged(tag);  // ones
    case BATON_OP_LAUNCH:
      bindings_ = {bind("x", memory, 0, kTensor), bind("y", memory, kHalf, kTensor)};
      return launch(program, bindings_, kArgs).tagged(tag);
    default: return nop().tagged(tag);
  }
}

Timeline Faulty::submit(Op op) {
  Timeline t = must(in.timeline("faulty"));
  must(queue.submit(op.signal(t, 1)));
  return t;
}

void Faulty::expect_usable() {
  std::memset(bytes, 0, kBytes);
  for (uint8_t opcode : {BATON_OP_NOP, BATON_OP_FILL, BATON_OP_LAUNCH, BATON_OP_COPY}) EXPECT_OK(submit(op(opcode, 0)).wait_until(1, soon()));
  const auto* got = reinterpret_cast<const float*>(bytes);
  EXPECT_EQ(got[0], 1.0f);
  EXPECT_EQ(got[kBytes / 8], 2.0f);
  EXPECT_EQ(got[kBytes / 4 - 1], 1.0f);
}

}  // namespace baton::cts
