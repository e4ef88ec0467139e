// A landing in device memory where a complete remote write is not yet a visible one: the sink fences before `landed` rises. The emulated Neuron
// runtime shows nothing that came through a descriptor before a fence (seed 0), or only at some time (another seed).
#include "transport_kv_request.hpp"

#include <fstream>

namespace baton::transport {
namespace {

using testing::HasSubstr;

const uint64_t kPatienceMs = (kSanitized ? 60000 : 20000) * test_slow();

// An instance whose devices have a fault plan, if one is given.
struct Layers {
  explicit Layers(const std::string& plan) {
    if (plan.empty()) return;
    std::snprintf(path, sizeof path, "/tmp/baton-fence-XXXXXX");
    close(mkstemp(path));
    std::ofstream(path) << plan;
    setenv("BATON_LAYERS", (std::string("fault=") + path).c_str(), 1);
  }
  ~Layers() {
    unsetenv("BATON_LAYERS");
    if (path[0]) unlink(path);
  }
  char path[32] = "";
};

class Fence : public testing::Test {
 protected:
  void start(const std::string& seed, const std::string& plan = "", KvLayout to = small_layout(KvOrder::token_major, 16, 12)) {
    sink.reset(), landing.reset(), source.reset(), chip.reset(), ends.reset();
    layers.emplace(plan);
    ends.emplace();
    chip.emplace(must(ends->in.open("emu+neuron://0?visibility=" + seed), "emu+neuron://0"));
    dst = to;
    landing.emplace(must(chip->alloc(dst.bytes())));
    std::memset(must(landing->map()), 0xee, landing->bytes());
    sink.emplace(must(KvSink::create(ends->in, ends->decode, *landing, dst, "model-a")));
    src = small_layout(KvOrder::head_major, 32, 8);
    source.emplace(must(ends->host.alloc(src.bytes())));
  }
  // One hand-over of 100 tokens; how landed ended. What the sink's device reads is in seen().
  Status move(const std::string& fabric, bool checksum, uint64_t held = 0) {
    dst_blocks = shuffled_blocks(rng, dst, kTokens);
    const auto src_blocks = shuffled_blocks(rng, src, kTokens);
    fill_kv(*source, src, src_blocks, kTokens, ++salt);
    if (held) fill_kv(*landing, dst, dst_blocks, held, salt);
    Incoming in = must(sink->expect(dst_blocks, kTokens, held));
    BATON_ASSIGN(KvTransfer t, KvTransfer::open(ends->in, *ends->at_prefill, in.ticket(), {{&*source, src, src_blocks}}, kTokens,
                                                {.fabric = fabric, .model = "model-a", .checksum = checksum}, deadline_in_ms(kPatienceMs)));
    std::vector<Op> ops;
    for (uint32_t l = 0; l < dst.layers_held(); ++l) ops.push_back(t.copy(0, l));
    BATON_TRY(t.queue().submit(ops));
    BATON_TRY(in.landed().wait_until(dst.layers_held(), deadline_in_ms(kPatienceMs)));
    return t.seal({"end", nlohmann::json::object(), {}}, deadline_in_ms(kPatienceMs));
  }
  // Wrong elements, by the device's own reading.
  uint64_t seen() {
    Buffer copy = must(ends->host.alloc(dst.bytes()));
    Queue q = must(chip->queue(0));
    Timeline done = must(ends->in.timeline("read"));
    EXPECT_OK(q.submit(baton::copy(*landing, 0, copy, 0, dst.bytes()).signal(done, 1)));
    EXPECT_OK(done.wait_until(1, deadline_in_ms(kPatienceMs)));
    return wrong_kv(copy, dst, dst_blocks, kTokens, salt);
  }

  static constexpr uint64_t kTokens = 100;
  std::optional<Layers> layers;
  std::optional<TwoEnds> ends;
  std::optional<Device> chip;
  std::optional<Buffer> landing, source;
  std::optional<KvSink> sink;
  KvLayout dst, src;
  std::vector<int32_t> dst_blocks;
  std::mt19937 rng{9};
  uint32_t salt = 0;
};

constexpr char kNoFence[] = R"({"rules": [{"op": "fence", "device": "neuron://*", "action": "drop"}]})";

TEST_F(Fence, WhatHasLandedIsVisible) {
  for (const char* seed : {"0", "3"}) {
    SCOPED_TRACE(seed);
    start(seed);
    for (const char* fabric : {"mapped", "shm", "tcp"})
      for (bool checksum : {false, true}) {
        const Status s = move(fabric, checksum);
        EXPECT_OK(s);
        EXPECT_EQ(seen(), 0u) << fabric;
      }
    EXPECT_OK(move("mapped", true, 37));  // a prefix that is here
    EXPECT_EQ(seen(), 0u);
  }
}

// Layouts whose layers lie apart, together, and block by block: the ranges are right.
TEST_F(Fence, WhateverTheLayout) {
  for (KvOrder order : {KvOrder::head_major, KvOrder::block_major})
    for (KvPairing pairing : {KvPairing::apart, KvPairing::block, KvPairing::token}) {
      KvLayout to = small_layout(order, 16, 12);
      to.pairing = pairing;
      SCOPED_TRACE(to.describe());
      if (!to.check().ok()) continue;  // not a layout of its own
      start("0", "", to);
      EXPECT_OK(move("mapped", false));
      EXPECT_EQ(seen(), 0u);
    }
}

// A fabric without a fence: the reader sees old bytes, and a checksum does not let them through.
TEST_F(Fence, WithoutItOldBytesAreSeenAndACheckedTransferFails) {
  start("0", kNoFence);
  EXPECT_OK(move("mapped", false));
  EXPECT_GT(seen(), 0u);
  const Status s = move("mapped", true);
  ASSERT_FALSE(s.ok());
  EXPECT_EQ(s.error().code, BATON_CORRUPT) << s.error().text();
}

TEST_F(Fence, OneThatFailsFailsTheTransfer) {
  start("0", R"({"rules": [{"op": "fence", "device": "neuron://*", "nth": 3, "action": "fail", "code": "IO", "text": "no fence today"}]})");
  const Status s = move("mapped", false);
  ASSERT_FALSE(s.ok());
  EXPECT_EQ(s.error().code, BATON_IO) << s.error().text();
  EXPECT_THAT(s.error().what, HasSubstr("no fence today"));
}

// A link's COPY that another device writes into the chip's memory is fenced by the core.
TEST_F(Fence, ACopyOfAnotherDeviceIsVisibleOnceItIsSignalled) {
  for (const bool fenced : {true, false}) {
    start("0", fenced ? "" : kNoFence);
    Device wafer = must(ends->in.open("emu+cs3://0"), "emu+cs3://0");
    constexpr uint64_t kBytes = 1 << 20;
    Buffer from = must(wafer.alloc(kBytes)), to = must(chip->alloc(kBytes)), read = must(ends->host.alloc(kBytes));
    Queue fills = must(wafer.queue(0)), reads = must(chip->queue(0)), link = must(ends->in.link(wafer, *chip));
    Timeline t = must(ends->in.timeline("t"));
    ASSERT_OK(fills.submit(fill(from, 0, kBytes, 0x5a).signal(t, 1)));
    ASSERT_OK(reads.submit(fill(to, 0, kBytes, 0x11).wait(t, 1).signal(t, 2)));
    ASSERT_OK(link.submit(copy(from, 0, to, 0, kBytes).wait(t, 2).signal(t, 3)));
    ASSERT_OK(reads.submit(copy(to, 0, read, 0, kBytes).wait(t, 3).signal(t, 4)));
    ASSERT_OK(t.wait_until(4, deadline_in_ms(kPatienceMs)));
    const auto* at = static_cast<const uint8_t*>(must(read.map()));
    const auto old = uint64_t(std::count(at, at + kBytes, 0x11));
    if (fenced) EXPECT_EQ(old, 0u);
    else EXPECT_GT(old, 0u) << "the wafer does not write through the descriptor: nothing is tested here";
  }
}

}  // namespace
}  // namespace baton::transport
