// Tensor-parallel prefill over several chips of one machine: the collective spans them, and the logits are those of one lane, bit for bit.
#include "tests/pair/generate_fixture.hpp"
#include "tools/model/programs.hpp"

#include <fmt/format.h>

namespace baton::runtime {
namespace {

constexpr uint32_t kRows = 40;
constexpr uint64_t kPatience = kSanitized ? 240'000 : 60'000;  // ms

struct Lane {
  Buffer kv, ids, table, token, logits;
  Program program;
  Queue queue;
};

// The same program with reduce_scatter and all_gather for each all_reduce.
program::Program scattered(program::Program p) {
  std::vector<program::Op> ops;
  for (program::Op& op : p.ops) {
    if (op.code != program::OpCode::all_reduce) {
      ops.push_back(std::move(op));
      continue;
    }
    const auto part = uint32_t(p.values.size());
    program::Value v = p.values[op.out[0]];
    v.name = fmt::format("part{}", part);
    v.shape[1] /= p.ranks;
    p.values.push_back(std::move(v));
    ops.push_back({.code = program::OpCode::reduce_scatter, .in = op.in, .out = {part}});
    ops.push_back({.code = program::OpCode::all_gather, .in = {part}, .out = op.out});
  }
  p.ops = std::move(ops);
  return p;
}

class Chips : public ::testing::Test {
 protected:
  void SetUp() override {
    auto made = Instance::create();
    ASSERT_TRUE(made.ok()) << made.error().text();
    in_ = std::move(*made);
    auto host = in_.open("host://");
    ASSERT_TRUE(host.ok()) << host.error().text();
    host_ = std::move(*host);
    for (uint32_t c = 0; c < 4; ++c) {
      auto d = in_.open(fmt::format("emu+neuron://{}?chips=4", c));
      ASSERT_TRUE(d.ok()) << d.error().text();
      chips_.push_back(std::move(*d));
    }
  }

  // Prefills on `ranks` lanes, rank r on chip r % `over`; the logits of rank 0.
  Result<std::vector<float>> logits(uint32_t ranks, uint32_t over, bool scatter = false) {
    const model::Model& m = demo();
    const uint32_t vocab = m.config.vocab, blocks = (kRows + 15) / 16;
    BATON_ASSIGN(auto numbers, model::Numbers::of(m, model::Precision::automatic));
    BATON_ASSIGN(Buffer stage, host_.alloc(uint64_t(vocab) * 4));
    BATON_ASSIGN(void* at, stage.map());
    const std::vector<int32_t> ids = prompt_of(kRows);
    for (uint32_t b = 0; b < blocks; ++b) static_cast<int32_t*>(at)[b] = int32_t(blocks - 1 - b);
    std::memcpy(static_cast<int32_t*>(at) + blocks, ids.data(), kRows * 4);
    BATON_ASSIGN(Timeline ready, in_.timeline("ready"));
    BATON_ASSIGN(Timeline done, in_.timeline("done"));
    std::vector<Lane> lanes;
    for (uint32_t r = 0; r < ranks; ++r) {
      const uint32_t lane = r / over;
      const Device& d = chips_[r % over];
      BATON_ASSIGN(model::Shard shard, model::Shard::make(m.config, r, ranks));
      const auto layout = kv_layout(m.config, numbers, shard, transport::KvOrder::token_major, 16, blocks);
      BATON_ASSIGN(program::Program p, prefill_program(m, numbers, shard, {layout}, {kRows, kRows}));
      if (scatter) p = scattered(std::move(p));
      BATON_ASSIGN(model::Constants constants, model::Constants::gather(m, shard));
      Lane l;
      BATON_ASSIGN(l.kv, d.alloc(layout.bytes(), lane));
      BATON_ASSIGN(l.ids, d.alloc(kRows * 4, lane));
      BATON_ASSIGN(l.table, d.alloc(blocks * 4, lane));
      BATON_ASSIGN(l.token, d.alloc(4, lane));
      BATON_ASSIGN(l.logits, d.alloc(uint64_t(vocab) * 4, lane));
      BATON_ASSIGN(l.program, d.load(program::serialize(p), constants.list(), lane, r, ranks));
      BATON_ASSIGN(l.queue, d.queue(lane));
      BATON_TRY(l.queue.submit({copy(stage, 0, l.table, 0, blocks * 4), copy(stage, blocks * 4, l.ids, 0, kRows * 4).signal(ready, r + 1)}));
      BATON_TRY(ready.wait_until(r + 1, deadline_in_ms(kPatience)));
      lanes.push_back(std::move(l));
    }
    std::vector<Timeline> ends;
    for (Lane& l : lanes) {
      BATON_ASSIGN(Timeline end, in_.timeline("rank"));
      std::vector<baton_binding> b = {bind("ids", l.ids), bind("table", l.table), bind("cache", l.kv), bind("token", l.token), bind("logits", l.logits)};
      int64_t args[] = {kRows, 0, float_arg(0), float_arg(1), 0};
      BATON_TRY(l.queue.submit(launch(l.program, b, args).signal(end, 1)));
      ends.push_back(std::move(end));
    }
    for (Timeline& end : ends) BATON_TRY(end.wait_until(1, deadline_in_ms(kPatience)));
    BATON_TRY(lanes[0].queue.submit(copy(lanes[0].logits, 0, stage, 0, uint64_t(vocab) * 4).signal(done, 1)));
    BATON_TRY(done.wait_until(1, deadline_in_ms(kPatience)));
    std::vector<float> out(vocab);
    std::memcpy(out.data(), at, out.size() * sizeof(float));
    return out;
  }

  Instance in_;
  Device host_;
  std::vector<Device> chips_;
};

TEST_F(Chips, RanksOverOneTwoAndFourChipsGiveTheBitsOfOneLane) {
  auto one = logits(1, 1);
  ASSERT_TRUE(one.ok()) << one.error().text();
  struct Case {
    uint32_t ranks, over;
    bool scatter = false;
  };
  for (Case c : {Case{4, 1}, Case{2, 2}, Case{4, 2}, Case{4, 4}, Case{4, 1, true}, Case{4, 2, true}, Case{4, 4, true}}) {
    auto many = logits(c.ranks, c.over, c.scatter);
    ASSERT_TRUE(many.ok()) << c.ranks << " over " << c.over << ": " << many.error().text();
    EXPECT_EQ(std::memcmp(many->data(), one->data(), one->size() * sizeof(float)), 0) << c.ranks << " ranks over " << c.over << " chips, scattered " << c.scatter;
  }
  auto again = logits(4, 4);  // the order in which ranks arrive does not matter
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(std::memcmp(again->data(), one->data(), one->size() * sizeof(float)), 0);
}

}  // namespace
}  // namespace baton::runtime
