// Placement: geometry as data, cuts over wafers, regions that tile a wafer, room for KV, refusals with numbers; shapes from real programs.
#include "drivers/cs3/placement/place.hpp"
#include "tools/model/synthetic.hpp"
#include "tools/model/wafers.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>

namespace baton::cs3 {
namespace {

using ::testing::HasSubstr;

WaferData wafer(const char* name = "cs3") {
  auto w = wafer_data(name);
  EXPECT_TRUE(w.ok()) << w.error().what;
  return *w;
}

Shape shape_of_config(const model::ModelConfig& c) {
  auto m = model::shapes_alone(c, "BF16");
  EXPECT_TRUE(m.ok()) << m.error().what;
  auto numbers = model::Numbers::of(*m, model::Precision::automatic);
  auto shard = model::Shard::make(c, 0, 1);
  auto layout = kv_layout(c, *numbers, *shard, transport::KvOrder::token_major, 16, 2);
  auto p = decode_program(*m, *numbers, *shard, {layout}, {1, 32});
  EXPECT_TRUE(p.ok()) << p.error().what;
  auto s = shape_of(*p);
  EXPECT_TRUE(s.ok()) << s.error().what;
  return *s;
}

Shape llama70() {
  auto c = model::load_config(BATON_SOURCE_DIR "/models/llama-3.3-70b");
  EXPECT_TRUE(c.ok()) << c.error().what;
  return shape_of_config(*c);
}

Shape llama8() {
  model::ModelConfig c = model::tinyllama_shape();
  c.hidden = 4096, c.layers = 32, c.heads = 32, c.kv_heads = 8, c.head_dim = 128, c.ffn = 14336, c.vocab = 128256, c.tied = false;
  c.window.assign(32, 0);
  return shape_of_config(c);
}

Placement placed(const WaferData& w, const Shape& s, const Request& r) {
  auto p = place(w, s, r);
  EXPECT_TRUE(p.ok()) << p.error().what;
  return *p;
}

// Every PE of a region is usable, good and no other region's; what a region is said to hold is what its PEs hold.
void check_regions(const Placement& p) {
  const WaferData& w = p.wafer;
  const std::set<uint32_t> bad(p.request.bad_rows.begin(), p.request.bad_rows.end());
  for (uint32_t i = 0; i < p.wafers.size(); ++i) {
    std::vector<uint8_t> taken(size_t(w.fabric_width) * w.fabric_height);
    uint64_t pes = 0;
    for (const Region& r : p.regions) {
      if (r.wafer != i) continue;
      ASSERT_GE(r.at.x, w.reserved_west);
      ASSERT_LE(r.at.x + r.at.w, w.fabric_width - w.reserved_east);
      ASSERT_GE(r.at.y, w.reserved_north);
      ASSERT_LE(r.at.y + r.at.h, w.fabric_height - w.reserved_south);
      uint32_t rows = 0;
      for (uint32_t y = r.at.y; y < r.at.y + r.at.h; ++y) {
        if (bad.count(y)) continue;
        ++rows;
        for (uint32_t x = r.at.x; x < r.at.x + r.at.w; ++x) ASSERT_EQ(taken[size_t(y) * w.fabric_width + x]++, 0) << "layer " << r.layer;
      }
      EXPECT_EQ(rows, r.rows) << "layer " << r.layer;
      EXPECT_EQ(r.capacity, r.pes() * w.pe_bytes());
      if (r.layer != kEnds) EXPECT_LE(r.weights + r.scratch + r.kv_token * (p.request.kv == Kv::shift ? r.kv_tokens : 0), r.capacity);
      else EXPECT_LE(r.weights + r.scratch, r.capacity);
      pes += r.pes();
    }
    // Only rows of less than one PE a column are lost, at the ends of columns.
    EXPECT_GE(double(pes), 0.98 * double(p.wafers[i].capacity / w.pe_bytes())) << "wafer " << i;
  }
}

TEST(WaferData, IsWhatTheSourcesSay) {
  const WaferData w = wafer();
  EXPECT_EQ(w.usable_width(), 755u);
  EXPECT_EQ(w.usable_height(), 1170u);
  EXPECT_EQ(w.usable_pes(), 883'350u);
  EXPECT_NEAR(double(w.sram_bytes()), 44e9, 0.3e9) << "the vendor's headline";
  EXPECT_LT((w.edge_ports - 1) * w.port_pitch, w.fabric_height);
  EXPECT_EQ(wafer("cs2").usable_pes(), 745'500u);
  auto other = wafer_data("cs9");
  ASSERT_FALSE(other.ok());
  EXPECT_EQ(other.error().code, BATON_NOT_FOUND);
  EXPECT_THAT(other.error().next, HasSubstr("cs2, cs3"));
}

TEST(WaferData, AMachineSaysItsFabric) {
  auto taller = resized(wafer(), 762, 1176);  // as the SDK's documents have it
  ASSERT_TRUE(taller.ok());
  EXPECT_EQ(taller->usable_pes(), 886'370u);
  EXPECT_FALSE(resized(wafer(), 7, 1176).ok());
  EXPECT_FALSE(resized(wafer(), 762, 2).ok());
  EXPECT_EQ(with_sram(wafer(), 44'000'000'000)->pe_sram, 48u * 1024) << "the headline";
  EXPECT_EQ(with_sram(wafer(), 883'350'000)->pe_sram, 1000u);
  EXPECT_FALSE(with_sram(wafer("cs2"), 1'000'000).ok()) << "less than what is reserved of each PE";
}

TEST(WaferData, MalformedTextsAreRefused) {
  auto refused = [](const std::string& text, const char* says) {
    auto w = parse_wafer(text, "w", "here.json");
    ASSERT_FALSE(w.ok()) << text;
    EXPECT_THAT(w.error().what, HasSubstr(says));
    EXPECT_THAT(w.error().what, HasSubstr("here.json"));
    EXPECT_STRNE(w.error().next, "");
  };
  const std::string head = R"({"schema": "baton.wafers/1", "wafers": {"w": )";
  refused("", "not a JSON object");
  refused(std::string(100, '['), "not a JSON object");
  refused(R"({"schema": "baton.wafers/2"})", "schema");
  refused(R"({"schema": "baton.wafers/1", "wafers": []})", "'wafers'");
  refused(head + "3}}", "'w' must be an object");
  refused(head + "{}}}", "fabric_width");
  refused(head + R"({"fabric_width": {"value": -1, "unit": "PE", "source": "guess"}}}})", "no count");
  refused(head + R"({"fabric_width": {"value": 1e30, "unit": "PE", "source": "guess"}}}})", "no count");
  refused(head + R"({"fabric_width": {"value": 762, "unit": "mm", "source": "guess"}}}})", "must be in PE");
  refused(head + R"({"fabric_width": {"value": 762, "unit": "PE", "source": ""}}}})", "no source");
}

TEST(Shape, OfTheDecodeProgramOf70B) {
  const Shape s = llama70();
  ASSERT_EQ(s.layers.size(), 80u);
  // q and o 8192 x 8192, k and v 1024 x 8192, gate, up, down 28672 x 8192, two norms; inv_freq of 64 floats.
  const uint64_t layer = 2ull * (2 * 8192 * 8192 + 2 * 1024 * 8192 + 3ull * 28672 * 8192 + 2 * 8192) + 64 * 4;
  for (const Part& l : s.layers) {
    EXPECT_EQ(l.weights, layer);
    EXPECT_EQ(l.kv_token, 2u * 8 * 128 * 2);
    EXPECT_EQ(l.scratch, 3u * 28672 * 4) << "silu_mul is the widest op";
  }
  EXPECT_EQ(s.first.weights, 2ull * 128256 * 8192);
  EXPECT_EQ(s.last.weights, 2ull * 128256 * 8192 + 2 * 8192);
  EXPECT_EQ(s.kv_token(), 327'680u);  // 320 KiB
  EXPECT_NEAR(double(s.weights()), 141.1e9, 0.05e9);
  // Each op belongs to one layer, in order, with both ends outside.
  EXPECT_EQ(s.part_of_op.front(), kEnds);
  EXPECT_EQ(s.part_of_op.back(), kEnds);
  std::vector<uint32_t> ops(80);
  for (const uint32_t part : s.part_of_op)
    if (part != kEnds) ++ops[part];
  EXPECT_EQ(std::set<uint32_t>(ops.begin(), ops.end()).size(), 1u) << "all layers have the same ops";
}

TEST(Shape, ATableOfBothEndsIsThereOnce) {
  model::ModelConfig c = model::tinyllama_shape();
  c.tied = true;
  const Shape s = shape_of_config(c);
  EXPECT_EQ(s.first.weights, 2ull * 32000 * 2048);
  EXPECT_EQ(s.last.weights, 2u * 2048) << "the norm alone";
}

TEST(Shape, OfAProgramWithoutLayers) {
  program::Builder b("product");
  const uint32_t x = b.value("x", program::DType::f32, program::Storage::input, {1, 16384}), w = b.constant("w", program::DType::bf16, {16384, 16384});
  const uint32_t y = b.value("y", program::DType::f32, program::Storage::output, {1, 16384});
  b.matmul(x, w, program::Act::bf16, 1, -1, int64_t(y));
  auto p = std::move(b).finish();
  ASSERT_TRUE(p.ok()) << p.error().what;
  auto s = shape_of(*p);
  ASSERT_TRUE(s.ok());
  EXPECT_TRUE(s->layers.empty());
  EXPECT_EQ(s->first.weights, 2ull * 16384 * 16384);
  const Placement all = placed(wafer(), *s, {});
  ASSERT_EQ(all.regions.size(), 1u);
  EXPECT_EQ(all.regions[0].pes(), wafer().usable_pes()) << "all of the wafer";
}

TEST(Place, Of70BIsRefusedOn3AndLiesOn4) {
  const Shape s = llama70();
  auto three = place(wafer(), s, {.wafers = 3});
  ASSERT_FALSE(three.ok());
  EXPECT_EQ(three.error().code, BATON_CAPACITY);
  EXPECT_THAT(three.error().what, HasSubstr("3 wafers of 43.42 GB, 141.11 GB of weights: 10.85 GB too little"));
  EXPECT_THAT(three.error().next, HasSubstr("4 wafers"));
  const Placement p = placed(wafer(), s, {.wafers = 4, .ends = Ends::spread});
  check_regions(p);
  // 4 x 44 GB less 141.1 GB would be 107k tokens; reserved edges and what rectangles leave over take a tenth of that.
  EXPECT_NEAR(double(p.kv_tokens), 107'000, 0.1 * 107'000);
  for (const WaferUse& w : p.wafers) EXPECT_EQ(w.layers, 20u);
  EXPECT_EQ(placed(wafer(), s, {}).request.wafers, 4u) << "the fewest";
}

// With the embedding on the first wafer and the head on the last, 2.1 GB each, these have fewer layers, of 1.7 GB.
TEST(Place, PinnedEndsAreWeighedAgainstLayers) {
  const Shape s = llama70();
  const Placement p = placed(wafer(), s, {.wafers = 4});
  check_regions(p);
  std::vector<uint32_t> layers;
  for (const WaferUse& w : p.wafers) layers.push_back(w.layers);
  EXPECT_EQ(layers, (std::vector<uint32_t>{19, 21, 21, 19}));
  EXPECT_EQ(p.wafers[0].ends_first, 1);
  EXPECT_EQ(p.wafers[3].ends_last, 1);
  EXPECT_EQ(p.wafers[1].ends_first + p.wafers[1].ends_last, 0);
  // Layers of 1 GB and a head of 30 GB: it has a wafer with one layer alone.
  Shape heavy;
  heavy.layers.assign(9, {1'000'000'000, 4096, 1000});
  heavy.last.weights = 30'000'000'000;
  const Placement q = placed(wafer(), heavy, {.wafers = 3});
  EXPECT_EQ(q.wafers[2].layers, 1u);
  EXPECT_EQ(q.wafers[0].layers, 4u);
  // Layers of different sizes: by bytes, not by number.
  Shape uneven;
  uneven.layers.assign(8, {1'000'000'000, 4096, 1000});
  uneven.layers[0].weights = 35'000'000'000;
  EXPECT_EQ(placed(wafer(), uneven, {.wafers = 2}).wafers[0].layers, 1u);
}

// Against every cut that there is: none keeps more tokens, by bytes.
TEST(Place, TheCutIsTheBestOfAll) {
  std::mt19937 random(5);
  for (int round = 0; round < 200; ++round) {
    const uint32_t n = 2 + random() % 9, wafers = 1 + random() % std::min(n, 5u);
    Shape s;
    s.layers.resize(n);
    for (Part& l : s.layers) l = {random() % 9'000'000'000, 64 + random() % 8192, random() % 100'000};
    s.first.weights = random() % 9'000'000'000;
    s.last.weights = random() % 9'000'000'000;
    s.both = random() % 2 ? s.first.weights : 0;
    const WaferData w = wafer();
    // By the bytes of the fullest wafer, for all 2^(n-1) cuts.
    const auto room = [&](uint32_t from, uint32_t to) {
      uint64_t own = 0, kv = 0;
      for (uint32_t l = from; l < to; ++l) own += s.layers[l].weights + s.layers[l].scratch, kv += s.layers[l].kv_token;
      if (from == 0) own += s.first.weights;
      if (to == n) own += s.last.weights + (wafers > 1 ? s.both : 0);
      return own > w.usable_bytes() ? -1.0 : double((w.usable_bytes() - own) / kv);
    };
    double best = -1;
    for (uint32_t mask = 0; mask < 1u << (n - 1); ++mask) {
      if (uint32_t(__builtin_popcount(mask)) + 1 != wafers) continue;
      double least = 1e30;
      uint32_t from = 0;
      for (uint32_t l = 1; l <= n; ++l)
        if (l == n || mask >> (l - 1) & 1) least = std::min(least, room(from, l)), from = l;
      best = std::max(best, least);
    }
    const auto p = place(w, s, {.wafers = wafers});
    if (!p) continue;  // rectangles lose some of what bytes allow
    double least = 1e30;
    for (const WaferUse& u : p->wafers) least = std::min(least, room(u.first_layer, u.first_layer + u.layers));
    EXPECT_EQ(least, best) << "round " << round;
  }
}

TEST(Place, ATableOfBothEndsIsOnBothWafers) {
  model::ModelConfig c = model::tinyllama_shape();
  c.tied = true;
  const Shape s = shape_of_config(c);
  EXPECT_EQ(s.both, s.first.weights);
  const auto total = [&](uint32_t wafers) {
    uint64_t n = 0;
    for (const WaferUse& w : placed(wafer(), s, {.wafers = wafers}).wafers) n += w.weights;
    return n;
  };
  EXPECT_EQ(total(1), s.weights());
  EXPECT_EQ(total(3), s.weights() + s.first.weights);
  EXPECT_EQ(llama70().both, 0u);
}

// What a device says of itself is what is placed on: its wafers, their fabric and their SRAM.
TEST(Place, OnADeviceAsItIs) {
  const Shape s = llama70();
  DeviceInfo d{};
  Error::put(d.driver, "cs3");
  Error::put(d.model, "5 x CS-3, 755 x 1170 PEs");
  d.heap_count = 5;
  for (uint32_t i = 0; i < 5; ++i) d.heaps[i].bytes_total = 44'000'000'000;
  ASSERT_TRUE(model::has_wafers(d));
  const auto p = model::place_on(d, s, {});
  ASSERT_TRUE(p.ok()) << p.error().what;
  const Placement same = placed(wafer(), s, {});
  EXPECT_EQ(p->kv_tokens, same.kv_tokens);
  EXPECT_EQ(p->wafers.size(), 4u);
  const transport::KvLayout whole{.layers = 80, .kv_heads = 8, .head_dim = 128, .dtype = program::DType::bf16, .block_tokens = 16, .blocks = 4};
  const model::Layouts cut = model::cut_layers(whole, *p);
  ASSERT_EQ(cut.size(), 4u);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(cut[i].layer_begin, same.wafers[i].first_layer);
    EXPECT_EQ(cut[i].layer_count, same.wafers[i].layers);
  }
  const auto five = model::place_on(d, s, {.context = same.kv_tokens + 1});
  ASSERT_TRUE(five.ok()) << five.error().what;
  EXPECT_EQ(five->wafers.size(), 5u) << "what does not fit on four takes a fifth";
  EXPECT_FALSE(model::place_on(d, s, {.wafers = 6}).ok()) << "it has five";
  // Refused with the numbers of those that there are.
  d.heap_count = 3;
  const auto refused = model::place_on(d, s, {});
  ASSERT_FALSE(refused.ok());
  EXPECT_THAT(refused.error().what, HasSubstr("3 wafers of 43.42 GB"));
  EXPECT_THAT(refused.error().next, HasSubstr("4 wafers"));
  // A taller fabric: more tokens. Less SRAM: fewer; the smallest wafer is the measure.
  d.heap_count = 5;
  Error::put(d.model, "5 x CS-3, 755 x 1174 PEs");
  const auto taller = model::place_on(d, s, {.wafers = 5});
  ASSERT_TRUE(taller.ok()) << taller.error().what;
  EXPECT_EQ(taller->wafer.fabric_height, 1176u);
  EXPECT_GT(taller->kv_tokens, placed(wafer(), s, {.wafers = 5}).kv_tokens);
  d.heaps[3].bytes_total = 40'000'000'000;
  const auto small = model::place_on(d, s, {.wafers = 5});
  ASSERT_TRUE(small.ok());
  EXPECT_NEAR(double(small->wafer.usable_bytes()), 40e9, 1e6);
  EXPECT_LT(small->kv_tokens, placed(wafer(), s, {.wafers = 5}).kv_tokens);
  Error::put(d.driver, "neuron");
  EXPECT_FALSE(model::has_wafers(d));
}

TEST(Place, WhatItSaysWouldFitDoesAndOneMoreDoesNot) {
  const Shape s = llama70();
  std::mt19937 random(7);
  for (const Ends ends : {Ends::spread, Ends::pinned})
    for (const Kv kv : {Kv::shift, Kv::concat})
      for (const uint32_t wafers : {4u, 7u, 80u}) {
        const Request r{.wafers = wafers, .kv = kv, .ends = ends};
        const Placement p = placed(wafer(), s, r);
        check_regions(p);
        Request exact = r;
        exact.context = p.kv_tokens;
        EXPECT_TRUE(place(wafer(), s, exact).ok()) << wafers;
        ++exact.context;
        auto more = place(wafer(), s, exact);
        ASSERT_FALSE(more.ok()) << wafers;
        EXPECT_THAT(more.error().next, HasSubstr("a context of " + std::to_string(p.kv_tokens)));
        EXPECT_THAT(more.error().next, HasSubstr("spill KV"));
        // By sequences: as many as share the room.
        Request many = r;
        many.sequences = 1 + random() % 6;
        const Placement shared = placed(wafer(), s, many);
        many.context = shared.context();
        EXPECT_TRUE(place(wafer(), s, many).ok());
        many.context = shared.context() + 1;
        EXPECT_FALSE(place(wafer(), s, many).ok());
      }
}

TEST(Place, MoreWafersKeepMoreAndSpreadEndsNeverLess) {
  const Shape s = llama70();
  uint64_t before = 0;
  for (uint32_t wafers = 4; wafers <= 12; ++wafers) {
    const uint64_t spread = placed(wafer(), s, {.wafers = wafers, .ends = Ends::spread}).kv_tokens, pinned = placed(wafer(), s, {.wafers = wafers}).kv_tokens;
    EXPECT_GT(spread, before);
    EXPECT_GE(spread, pinned) << wafers;
    before = spread;
  }
}

TEST(Place, TheChoicesOfARefusalAreTrue) {
  const Shape s = llama70();
  const Request r{.wafers = 4, .sequences = 8, .context = 32'768};
  auto refused = place(wafer(), s, r);
  ASSERT_FALSE(refused.ok());
  unsigned wafers = 0, sequences = 0, context = 0;
  ASSERT_EQ(std::sscanf(refused.error().next, "%u wafers, %u sequences of 32768, a context of %u", &wafers, &sequences, &context), 3) << refused.error().next;
  Request other = r;
  other.wafers = wafers;
  EXPECT_TRUE(place(wafer(), s, other).ok());
  --other.wafers;
  EXPECT_FALSE(place(wafer(), s, other).ok());
  other = r;
  other.sequences = sequences;
  EXPECT_TRUE(place(wafer(), s, other).ok());
  other = r;
  other.context = context;
  EXPECT_TRUE(place(wafer(), s, other).ok());
}

TEST(Place, BadRowsAreRoutedAround) {
  const Shape s = llama70();
  const uint64_t whole = placed(wafer(), s, {.wafers = 4}).kv_tokens;
  uint64_t before = whole;
  for (const std::vector<uint32_t>& bad : {std::vector<uint32_t>{1}, {1, 600, 1170}, {300, 301, 302, 303, 304, 305, 306, 307}}) {
    const Placement p = placed(wafer(), s, {.wafers = 4, .bad_rows = bad});
    check_regions(p);
    EXPECT_LE(p.kv_tokens, before);
    before = p.kv_tokens;
  }
  EXPECT_EQ(placed(wafer(), s, {.wafers = 4, .bad_rows = {0, 1171}}).kv_tokens, whole) << "rows that no program may use";
  EXPECT_FALSE(place(wafer(), s, {.wafers = 4, .bad_rows = {1172}}).ok());
  // So many that the model does not fit: weights alone take 83% of the fullest wafer.
  std::vector<uint32_t> many;
  for (uint32_t r = 200; r < 380; ++r) many.push_back(r);
  EXPECT_TRUE(place(wafer(), s, {.wafers = 4, .bad_rows = many}).ok());
  for (uint32_t r = 380; r < 420; ++r) many.push_back(r);
  EXPECT_FALSE(place(wafer(), s, {.wafers = 4, .bad_rows = many}).ok());
  std::vector<uint32_t> all;
  for (uint32_t r = 0; r < 1172; ++r) all.push_back(r);
  EXPECT_FALSE(place(wafer(), s, {.wafers = 4, .bad_rows = all}).ok());
}

TEST(Place, RandomShapesTileTheirWafers) {
  std::mt19937 random(11);
  for (int i = 0; i < 60; ++i) {
    Shape s;
    s.layers.resize(1 + random() % 130);
    const uint64_t weights = 1 + random() % 900'000'000;
    for (Part& l : s.layers) l = {weights, 64 + random() % 8192, random() % 100'000};
    s.first.weights = random() % 2'000'000'000;
    s.last.weights = random() % 2'000'000'000;
    Request r{.sequences = 1 + uint32_t(random() % 4), .kv = random() % 2 ? Kv::shift : Kv::concat, .ends = random() % 2 ? Ends::spread : Ends::pinned};
    for (uint32_t b = random() % 5; b; --b) r.bad_rows.push_back(uint32_t(random() % 1172));
    auto p = place(wafer(), s, r);
    if (!p) {
      EXPECT_EQ(p.error().code, BATON_CAPACITY) << p.error().what;
      continue;
    }
    check_regions(*p);
    uint32_t layers = 0;
    double first = 0, last = 0;
    for (const WaferUse& w : p->wafers) {
      EXPECT_EQ(w.first_layer, layers);
      layers += w.layers;
      first += w.ends_first;
      last += w.ends_last;
      EXPECT_LE(w.weights + w.scratch, w.capacity);
    }
    EXPECT_EQ(layers, s.layers.size());
    EXPECT_NEAR(first, 1, 1e-9);
    EXPECT_NEAR(last, 1, 1e-9);
    for (uint32_t l = 0; l < s.layers.size(); ++l) {
      ASSERT_NE(p->region_of(l), nullptr);
      EXPECT_EQ(p->region_of(l)->wafer, p->wafer_of(l));
      EXPECT_GE(p->region_of(l)->kv_tokens, p->kv_tokens);
    }
  }
}

// WaferLLM (OSDI'25) table 5: Llama3-8B on a WSE-2, regions of 360 rows: 382 tokens decoded if new ones stay on one row, 137,548 if rows shift.
TEST(Place, ConcatAndShiftAsWaferLlmMeasured) {
  const WaferData w = wafer("cs2");
  const Shape s = llama8();
  uint64_t layers = 0;
  for (const Part& l : s.layers) layers += l.weights;
  const uint64_t left = w.usable_bytes() - layers;  // the table counts layers alone
  const uint64_t shift = kv_tokens(left, 360, s.kv_token(), Kv::shift), concat = kv_tokens(left, 360, s.kv_token(), Kv::concat);
  EXPECT_NEAR(double(shift) / 137'548, 1, 0.02) << "pe_reserve of cs2 is fitted to it";
  EXPECT_NEAR(double(concat) / 382, 1, 0.02) << "this one is not";
  // The same loss in a placement, whose regions have rows of their own.
  const Placement a = placed(w, s, {.wafers = 1}), b = placed(w, s, {.wafers = 1, .kv = Kv::concat});
  for (uint32_t l = 0; l < s.layers.size(); ++l) EXPECT_EQ(a.region_of(l)->kv_tokens, b.region_of(l)->kv_tokens * a.region_of(l)->rows);
  EXPECT_LT(b.kv_tokens * 100, a.kv_tokens);
}

TEST(Place, RequestsThatMakeNoSense) {
  const Shape s = llama8();
  EXPECT_FALSE(place(wafer(), s, {.wafers = 33}).ok()) << "more than layers";
  EXPECT_FALSE(place(wafer(), s, {.sequences = 0}).ok());
  EXPECT_FALSE(place(wafer(), s, {.wafers = 1, .context = UINT64_MAX}).ok());
  EXPECT_FALSE(place(wafer(), s, {.context = 1ull << 40}).ok()) << "on no number of wafers";
}

}  // namespace
}  // namespace baton::cs3
