// A sink that holds the key and is not right: what it tells of its memory and its slots is not followed out of what it gave.
#include "transport_test.hpp"

#include "transport/endpoint.hpp"
#include "transport/kv_wire.hpp"

namespace baton::transport {
namespace {

using testing::HasSubstr;

// Answers kv.open in a sink's place: real memory by the fabric `mapped`, and what each test would have it say.
class LyingSink : public Service {
 public:
  LyingSink(TwoEnds& e, const KvLayout& real) : e_(e), memory_(must(e.host.alloc(real.bytes()))), told(real) {
    exported_ = must(memory_.export_fd());
    e_.decode.impl().add(this);
  }
  ~LyingSink() override {
    e_.decode.impl().remove(this);
    landing_.reset();
    close(exported_.fd);
  }
  bool on_message(Session::Impl& s, Message& m) override {
    if (m.type != "kv.open") return false;
    std::vector<KvLayout> sources;
    for (const auto& j : m.body["sources"]) sources.push_back(must(layout_from(j)));
    LandingMemory memory{"liar", static_cast<uint8_t*>(must(memory_.map())), memory_.bytes(), exported_.fd, exported_.offset};
    landing_ = must(make_landing("mapped", s, memory));
    const uint32_t allowed = must(landing_->allow(7, nullptr));
    std::vector<uint8_t> blocks;
    put_blocks(blocks, std::vector<int32_t>{0});
    (void)send_transport(s, "kv.accept", {{"id", m.body["id"]}, {"generation", 7}, {"slot", slot.value_or(allowed)}, {"held", held}, {"fabric", fabric}, {"layout", to_json(told)},
                                          {"plan", must(share_heads(sources, told)).hash}, {"offer", must(landing_->offer())}}, std::move(blocks));
    return true;
  }

 private:
  TwoEnds& e_;
  Buffer memory_;
  Buffer::Export exported_;
  std::unique_ptr<Landing> landing_;

 public:
  KvLayout told;
  std::optional<uint32_t> slot;
  uint64_t held = 0;
  std::string fabric = "mapped";
};

class Hostile : public testing::Test {
 protected:
  Result<KvTransfer> open() {
    return KvTransfer::open(e.in, *e.at_prefill, "any", {{&source, layout, {0}}}, 16, {.fabric = "mapped", .model = "m"}, deadline_in_ms(20000));
  }
  // What becomes of the first layer's copy.
  Error outcome() {
    auto t = open();
    if (!t.ok()) return t.error();
    Timeline sent = must(e.in.timeline("sent"));
    const Op op = t->copy(0, 0).signal(sent, 1);
    if (Status s = t->queue().submit({&op, 1}); !s.ok()) return s.error();
    const Status s = sent.wait_until(1, deadline_in_ms(20000));
    return s.ok() ? Error() : s.error();
  }
  TwoEnds e;
  KvLayout layout = small_layout(KvOrder::token_major, 16, 2);
  Buffer source = must(e.host.alloc(layout.bytes()));
  LyingSink sink{e, layout};
};

TEST_F(Hostile, ASinkThatTellsTheTruthIsWrittenTo) { EXPECT_EQ(outcome().code, BATON_OK); }

TEST_F(Hostile, ASlotThatDoesNotExistIsNotWrittenTo) {
  sink.slot = 1u << 20;
  const Error why = outcome();
  EXPECT_EQ(why.code, BATON_CORRUPT) << why.text();
  EXPECT_THAT(why.what, HasSubstr("slot 1048576 of 64"));
}

TEST_F(Hostile, ALayoutLargerThanTheMemoryIsNotFollowed) {
  sink.told.blocks = 1u << 20;
  const Error why = outcome();
  EXPECT_EQ(why.code, BATON_CORRUPT) << why.text();
  EXPECT_THAT(why.what, HasSubstr("leaves the sink's"));
}

TEST_F(Hostile, AFabricThatWasNotOfferedIsRefused) {
  sink.fabric = "tcp";
  auto t = open();
  ASSERT_FALSE(t.ok());
  EXPECT_EQ(t.error().code, BATON_MISMATCH);
  EXPECT_THAT(t.error().what, HasSubstr("'tcp', which was not offered"));
}

// Brackets alone would use up the stack where they are copied; the session ends instead.
TEST_F(Hostile, AMessageOfBracketsEndsTheSession) {
  nlohmann::json deep = 1;
  for (int i = 0; i < 80; ++i) deep = nlohmann::json::array({std::move(deep)});
  ASSERT_OK(e.at_prefill->send({"x", {{"deep", std::move(deep)}}, {}}));
  ASSERT_TRUE(poll_until(e.in, [&] { return !e.at_decode->alive().ok(); }));
  EXPECT_EQ(e.at_decode->alive().error().code, BATON_CORRUPT);
  EXPECT_THAT(e.at_decode->alive().error().what, HasSubstr("too many brackets"));
}

}  // namespace
}  // namespace baton::transport
