// What a daemon's stage hears from the stage before it, on another daemon: frames on a connection that a hostile process may hold. They are taken
// apart as the daemon does (PeerIn), put into the inbox of their launch, and a stage of a small pipeline runs by them: whatever comes, it ends or
// waits, says why it failed, and what it sends on is what the next daemon's check accepts.
//
// An input is a byte (which of three stages, in the low bits; the size of the pieces that arrive, in the others), a byte (the launch's steps), a byte
// (bytes of its own memory for stage in, stage out and tokens: from the honest size on, so that hostile ones come up too), and what comes on the connection.
#include "emulators/cs3/peers.h"
#include "tests/fuzz/fuzz.h"
#include "tests/unit/cs3_pipeline.hpp"

#include <unistd.h>

#include <algorithm>

using namespace baton;
using namespace baton::cs3;
using cs3::test::LoadedStageProgram;

namespace {

constexpr uint32_t kStages = 3, kRow = 16 * 4;
constexpr int kMostSteps = 4096;

std::vector<LoadedStageProgram>& programs() {
  static std::vector<LoadedStageProgram>* all = [] {
    const auto m = cs3::test::small_model(3);
    const auto w = cs3::test::whole::random_weights(m);
    auto p = cs3::test::build_pipeline(m, w, {1, 1, 1}).finish();
    FUZZ_CHECK(p.ok());
    auto cut = cut_stages(*p);
    FUZZ_CHECK(cut.ok() && cut->list.size() == kStages);
    auto* list = new std::vector<LoadedStageProgram>;
    list->reserve(kStages);
    for (const StageProgram& s : cut->list) {
      auto loaded = LoadedStageProgram::load(s.program, w);
      FUZZ_CHECK(loaded.ok());
      list->push_back(std::move(*loaded));
    }
    return list;
  }();
  return *all;
}

// As a hostile client's launch would have it: too much or too little.
uint64_t about(uint64_t honest, uint32_t how) { return how == 0 ? honest : how == 1 ? honest + 64 : how == 2 ? honest / 2 : 0; }

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Input in(data, size);
  const uint8_t which = in.number(), sizes = in.number<uint8_t>();
  const uint32_t steps = in.number<uint8_t>() % 16;
  const uint8_t number = which % kStages;
  LoadedStageProgram& loaded = programs()[number];
  for (auto& m : loaded.memory)  // what inputs before have left must not show
    if (&m == loaded.tokens) std::fill(m.begin(), m.end(), 0);
  Stage::Plan plan;
  plan.number = 2;
  plan.stage = number;
  plan.stages = kStages;
  plan.progress = true;
  if (number > 0) plan.input = std::span<uint8_t>(), plan.own_bytes[1] = about(kRow, sizes & 3);
  if (number + 1u < kStages) plan.output = std::span<uint8_t>(), plan.own_bytes[2] = about(kRow, sizes >> 2 & 3);
  std::vector<engine::Binding> bindings;
  for (const engine::Binding& b : loaded.bindings) {
    if (b.name != "ids") bindings.push_back(b);
    else if (number == 0) plan.tokens = b.data.first(std::min<uint64_t>(b.data.size(), about((steps + 1) * 4, sizes >> 4 & 3))), bindings.push_back({b.name, *plan.tokens});
    else plan.tokens = std::span<uint8_t>(), plan.own_bytes[3] = about((steps + 1) * 4, sizes >> 4 & 3);
  }
  Calendar calendar;
  int told = 0;  // that it is over
  Stage::Tell tell;
  tell.send = [&](StageMessage&& m) {
    FUZZ_CHECK(!check(m.frame) && m.frame.bytes == m.payload.size() && m.frame.number == 2);
    told += m.frame.kind == uint8_t(StageSays::end) || m.frame.kind == uint8_t(StageSays::failed);
  };
  tell.mark = [](uint64_t, uint64_t) {};
  const char* names[4] = {nullptr, kStageIn, kStageOut, "ids"};
  const std::vector<int64_t> args = cs3::test::decode_args(steps);
  fuzz::SocketPair pair;
  PeerIn peer(1, Fd(pair.near), 2);
  Inbox inbox;
  {
    Stage stage(plan, *loaded.exe, std::move(bindings), args, names, calendar, nullptr, std::move(tell));
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
