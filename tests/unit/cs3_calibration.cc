// The wafer's timing model beside published figures: how near it is, and that the README's table is what the command prints.
#include "emulators/cs3/calibration.h"
#include "emulators/cs3/case_program.h"
#include "emulators/cs3/ground.h"
#include "emulators/cs3/loading.h"

#include <gtest/gtest.h>

#include <fstream>
#include <set>
#include <sstream>

namespace baton::cs3 {
namespace {

Calibration shipped() {
  auto c = calibrate("cs3");
  EXPECT_TRUE(c.ok()) << c.error().what;
  return *c;
}

TEST(Calibration, MedianUnderATenthAndWorstUnderAQuarter) {
  const Calibration c = shipped();
  EXPECT_LT(c.median(), 0.10);
  EXPECT_LT(c.worst(), 0.25);
  EXPECT_GE(c.cases.size(), 18u);
  size_t fitted = 0;
  for (const CaseResult& r : c.cases) {
    fitted += r.fitted;
    EXPECT_GT(r.modelled, 0) << r.name;
    EXPECT_FALSE(r.source.empty()) << r.name;
  }
  EXPECT_LE(2 * c.constants, fitted) << "far fewer constants than figures";
  EXPECT_LT(fitted, c.cases.size()) << "some are only compared";
}

// Sides, clocks and shapes matter: a case evaluated with another's is not near its figure by chance.
TEST(Calibration, FollowsWhatIsPublished) {
  const Calibration c = shipped();
  auto modelled = [&](const char* part) {
    for (const CaseResult& r : c.cases)
      if (r.name.find(part) != std::string::npos) return r.modelled;
    ADD_FAILURE() << part;
    return 0.0;
  };
  EXPECT_GT(modelled("decode Llama3-8B, 420"), 2 * modelled("decode Qwen2-72B, 420"));
  EXPECT_GT(modelled("prefill Llama3-8B, 720"), modelled("prefill Llama3-8B, 480"));
  EXPECT_GT(modelled("Qwen3-1.7B, context 4096"), modelled("Qwen3-1.7B, context 256"));
  EXPECT_GT(modelled("vendor Llama-3.1-8B"), 2 * modelled("vendor Llama-3.1-70B"));
}

TEST(Calibration, TheTableOfTheReadmeIsTrue) {
  std::stringstream readme;
  readme << std::ifstream(BATON_SOURCE_DIR "/emulators/cs3/README.md").rdbuf();
  EXPECT_NE(readme.str().find(shipped().text()), std::string::npos) << "put this into emulators/cs3/README.md:\n" << shipped().text();
}

TEST(Calibration, AnotherFormOrFileIsRefused) {
  EXPECT_FALSE(calibrate("trn2").ok());
  EXPECT_FALSE(calibrate("cs9").ok());
}

TEST(Ground, ATokenCrossesEachBorderOnce) {
  auto p = case_program({.hidden = 256, .layers = 8, .heads = 4, .kv_heads = 2, .head_dim = 64, .ffn = 512, .vocabulary = 1000}, 1, 64);
  ASSERT_TRUE(p.ok()) << p.error().what;
  const Shape s = *shape_of(*p);
  auto hops = [&](uint32_t wafers, Ends ends) {
    const Placement where = *place(*wafer_data("cs3"), s, {.wafers = wafers, .ends = ends});
    const auto grounds = grounds_of(s, where);
    EXPECT_EQ(grounds.size(), p->ops.size());
    uint32_t n = 0;
    for (size_t i = 0; i < grounds.size(); ++i) {
      n += grounds[i].hops;
      if (s.part_of_op[i] == kEnds) continue;
      EXPECT_EQ(grounds[i].width, where.region_of(s.part_of_op[i])->at.w);
      EXPECT_EQ(grounds[i].height, where.region_of(s.part_of_op[i])->at.h);
    }
    return n;
  };
  EXPECT_EQ(hops(1, Ends::spread), 0u);
  EXPECT_EQ(hops(4, Ends::pinned), 4u) << "three borders, and the token back to the first";
  EXPECT_EQ(hops(4, Ends::spread), 6u) << "out to all wafers, three borders, to all for the logits, and the best of them back";
}

// One matrix that takes nearly all of a wafer: with ten rows less it does not fit, and the refusal says where and by how much.
TEST(Loading, LaysOutAroundBadRows) {
  auto p = case_program({.matrix = 147'000}, 1, 1);
  ASSERT_TRUE(p.ok()) << p.error().what;
  const std::vector<uint8_t> bytes = program::serialize(*p);
  auto model = timing::load_wafer_model("cs3");
  auto wafer = Wafer::create(44'000'000'000, model->get());
  ASSERT_TRUE(wafer.ok()) << wafer.error().what;
  const engine::Options options{.cost = model->get(), .numbers = false};
  {
    Loading whole(*wafer, options, bytes.size());
    const Status st = whole.program_chunk(0, bytes);
    EXPECT_TRUE(st.ok()) << st.error().what;
    EXPECT_TRUE(whole.finish().ok());
  }
  const std::vector<uint16_t> bad = {0, 1, 2, 3, 4, 600, 601, 602, 603, 1169};
  Loading less(*wafer, options, bytes.size(), bad);
  const Status st = less.program_chunk(0, bytes);
  ASSERT_FALSE(st.ok());
  EXPECT_EQ(st.error().code, BATON_CAPACITY);
  EXPECT_NE(std::string(st.error().what).find("755 x 1160 PEs"), std::string::npos) << st.error().what;
  EXPECT_EQ(wafer->used(), 0u) << "nothing is charged for what was refused";
}

TEST(CaseProgram, WithoutADimensionThereIsNone) {
  EXPECT_FALSE(case_program({.hidden = 256, .layers = 8}, 1, 64).ok());
  EXPECT_FALSE(case_program({.hidden = 256, .layers = 8, .heads = 4, .kv_heads = 2, .head_dim = 64, .ffn = 512}, 65, 64).ok());
}

}  // namespace
}  // namespace baton::cs3
