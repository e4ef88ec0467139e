// What a daemon's stage hears from the stage before it, on another daemon: frames on a connection that a hostile process may hold. They are taken
// apart as the daemon does (PeerIn), put into the inbox of their launch, and a stage of a small pipeline runs by them: whatever comes, it ends or
// waits, says why it failed, and what it sends on is what the next daemon's check accepts.
//
// An input is a byte (which of three stages, in the low bits; the size of the pieces that arrive, in the others), a byte (the launch's steps), a byte
// (bytes of its own memory for stage in, stage out and tokens: from the honest size on, so that hostile ones come up too), and what comes on the connection.
#include "drivers/cs3/stages.h"
#include "emulators/cs3/peers.h"
#include "tests/fuzz/fuzz.h"

#include <unistd.h>

#include <algorithm>
#include <bit>

using namespace baton;
using namespace baton::cs3;

namespace {

constexpr uint32_t kStages = 3, kHidden = 16, kRow = kHidden * 4, kVocabulary = 31, kMostTokens = 12;
constexpr int kMostSteps = 4096;

// Embeds and sends on; passes on what is normed; samples and sends back. As cut_stages() leaves the stages of a decode program, but without a cache.
program::Program program_of(uint32_t stage) {
  using program::Act, program::Arg, program::Builder, program::DType, program::kSteps, program::Storage;
  Builder b("stage");
  program::Program& p = b.program();
  p.loop = true;
  p.max_steps = kMostTokens;
  p.max_context = 16;
  p.args = {Arg::steps, Arg::position, Arg::temperature, Arg::top_p, Arg::seed, Arg::stop};
  const uint32_t ids = stage != 1 ? b.value("ids", DType::i32, Storage::inout, {kSteps}) : 0;
  uint32_t x = stage == 0 ? b.embed(ids, b.constant("table", DType::f32, {kVocabulary, kHidden})) : b.value(kStageIn, DType::f32, Storage::input, {1, kHidden});
  if (stage == 1) x = b.rms_norm(x, b.constant("weight", DType::f32, {kHidden}), 1e-5f);
  if (stage < 2) p.values[x].storage = Storage::output, p.values[x].name = kStageOut;
  if (stage == 2) {
    b.sample(b.matmul(x, b.constant("head", DType::f32, {kVocabulary, kHidden}), Act::f32), ids, {});
    b.mark();
  }
  auto made = std::move(b).finish();
  FUZZ_CHECK(made.ok());
  return std::move(*made);
}

struct Loaded {
  engine::Executable exe;
  std::vector<uint8_t> tokens = std::vector<uint8_t>((kMostTokens + 1) * 4);
};

Loaded& loaded(uint32_t stage) {
  static std::vector<Loaded>* all = [] {
    std::vector<float> weights(kVocabulary * kHidden);
    for (size_t i = 0; i < weights.size(); ++i) weights[i] = float(int(i * 37 % 101) - 50) / 50;
    const auto* bytes = reinterpret_cast<const uint8_t*>(weights.data());
    const engine::Constant constants[] = {{"table", {bytes, weights.size() * 4}}, {"weight", {bytes, kRow}}, {"head", {bytes, weights.size() * 4}}};
    auto* list = new std::vector<Loaded>;
    for (uint32_t s = 0; s < kStages; ++s) {
      auto exe = engine::Executable::load(program::serialize(program_of(s)), std::span(&constants[s], 1), {.isa = engine::Isa::scalar});
      FUZZ_CHECK(exe.ok());
      list->push_back({std::move(*exe)});
    }
    return list;
  }();
  return (*all)[stage];
}

// As a hostile client's launch would have it: too much or too little.
uint64_t about(uint64_t honest, uint32_t how) { return how == 0 ? honest : how == 1 ? honest + 64 : how == 2 ? honest / 2 : 0; }

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Input in(data, size);
  const uint8_t which = in.number(), sizes = in.number<uint8_t>();
  const uint32_t steps = in.number<uint8_t>() % 16;
  const uint8_t number = which % kStages;
  Loaded& program = loaded(number);
  std::fill(program.tokens.begin(), program.tokens.end(), 0);  // what inputs before have left must not show
  Stage::Plan plan;
  plan.number = 2;
  plan.stage = number;
  plan.stages = kStages;
  plan.progress = true;
  if (number > 0) plan.input = std::span<uint8_t>(), plan.own_bytes[1] = about(kRow, sizes & 3);
  if (number + 1u < kStages) plan.output = std::span<uint8_t>(), plan.own_bytes[2] = about(kRow, sizes >> 2 & 3);
  std::vector<engine::Binding> bindings;
  const uint64_t tokens = about((steps + 1) * 4, sizes >> 4 & 3);
  if (number == 0) plan.tokens = std::span(program.tokens).first(std::min<uint64_t>(program.tokens.size(), tokens)), bindings.push_back({"ids", *plan.tokens});
  if (number == 2) plan.tokens = std::span<uint8_t>(), plan.own_bytes[3] = tokens;
  Calendar calendar;
  int told = 0;  // that it is over
  Stage::Tell tell;
  tell.send = [&](StageMessage&& m) {
    FUZZ_CHECK(!check(m.frame) && m.frame.bytes == m.payload.size() && m.frame.number == 2);
    told += m.frame.kind == uint8_t(StageSays::end) || m.frame.kind == uint8_t(StageSays::failed);
  };
  tell.mark = [](uint64_t, uint64_t) {};
  const char* names[4] = {nullptr, kStageIn, kStageOut, "ids"};
  const int64_t args[] = {steps, 0, std::bit_cast<int64_t>(0.0), std::bit_cast<int64_t>(1.0), 0, 0};
  fuzz::SocketPair pair;
  PeerIn peer(1, Fd(pair.near), 2);
  Inbox inbox;
  {
    Stage stage(plan, program.exe, std::move(bindings), args, names, calendar, nullptr, std::move(tell));
    bool over = false;
    const auto run = [&] {
      for (int i = 0; !over && i < kMostSteps && stage.ready(inbox); ++i) over = stage.step(inbox) == Stage::Went::over;
      if (over && stage.error().code != BATON_OK) fuzz::sound(stage.error());
    };
    run();
    std::string_view stream = in.text();
    const size_t piece = 1 + (which >> 2) * 7u;
    bool open = true;
    while (open && !stream.empty()) {
      const ssize_t n = ::send(pair.far, stream.data(), std::min(stream.size(), piece), MSG_NOSIGNAL | MSG_DONTWAIT);
      if (n <= 0) break;
      stream.remove_prefix(size_t(n));
      open = peer.read([&](StageMessage&& m) {
        FUZZ_CHECK(!check(m.frame) && m.payload.size() == m.frame.bytes);
        if (inbox.size() >= 64) return false;  // as a session
        inbox.push(std::move(m));
        return true;
      });
      FUZZ_CHECK(open == peer.why().empty());
      run();
    }
    ::close(pair.far);
    if (open) FUZZ_CHECK(!peer.read([](StageMessage&&) { return true; }) && !peer.why().empty());
  }
  FUZZ_CHECK(told <= 1);  // those who wait for it hear of its end once
  return 0;
}
