// disaggregated.cc: the step that Baton is for. Layer by layer, the prefill device makes keys and values, a link carries them over, and the
// decode device attends to them: while layer l travels, layer l + 1 is made. Three queues, three timelines, no callback.
//
// The model is a toy of four layers with random weights. The step runs twice, once over two devices and once with both roles on host://,
// and the answers are compared bit for bit: the hand-over changes nothing.
//
//     ./disaggregated [PREFILL [DECODE]]        default: emu+neuron://0 emu+cs3://0
#include "hal/baton.hpp"
#include "hal/program/program.hpp"

#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

namespace {

using baton::program::Act;
using baton::program::Arg;
using baton::program::DType;
using baton::program::kTokens;
using baton::program::Storage;

constexpr uint32_t kLayers = 4, kHidden = 64, kHeads = 2, kHeadDim = 32, kPrompt = 24, kBlockTokens = 16, kBlocks = 2;
constexpr uint32_t kRow = kHeads * kHeadDim;
// One layer's keys, then its values, each [block, token, head, d]: a layer is one run of bytes.
constexpr baton::program::KvView kView = {.layer_stride = 2 * kBlocks * kBlockTokens * kRow, .v_offset = kBlocks * kBlockTokens * kRow,
                                          .block_stride = kBlockTokens * kRow, .token_stride = kRow, .head_stride = kHeadDim,
                                          .block_tokens = kBlockTokens};
constexpr uint64_t kLayerBytes = kView.layer_stride * 2;  // bf16

std::vector<float> numbers(size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<float> x(count);
  for (float& v : x) v = float(random() % 2001) / 1000.f - 1.f;
  return x;
}

// x [tokens, hidden] -> keys and values of one layer, into the paged cache.
baton::Result<baton::Program> load_make(const baton::Device& device, uint32_t layer) {
  baton::program::Builder b("make" + std::to_string(layer));
  b.program().max_tokens = b.program().max_context = kPrompt;
  b.program().args = {Arg::tokens, Arg::position};
  const uint32_t x = b.value("x", DType::f32, Storage::input, {kTokens, kHidden});
  const uint32_t table = b.value("blocks", DType::i32, Storage::input, {kBlocks});
  const uint32_t cache = b.value("kv", DType::bf16, Storage::cache, {});
  const uint32_t k = b.matmul(x, b.constant("wk", DType::f32, {kRow, kHidden}), Act::f32);
  const uint32_t v = b.matmul(x, b.constant("wv", DType::f32, {kRow, kHidden}), Act::f32);
  b.kv_store(k, v, table, cache, layer, kHeads, kHeadDim, kView);
  BATON_ASSIGN(auto program, std::move(b).finish());
  const auto wk = numbers(kRow * kHidden, 2 * layer), wv = numbers(kRow * kHidden, 2 * layer + 1);
  const baton_constant weights[] = {{"wk", wk.data(), wk.size() * 4}, {"wv", wv.data(), wv.size() * 4}};
  return device.load(baton::program::serialize(program), weights);
}

// q [1, heads * head_dim] and one layer of the cache -> y of the same shape.
baton::Result<baton::Program> load_attend(const baton::Device& device, uint32_t layer) {
  baton::program::Builder b("attend" + std::to_string(layer));
  b.program().max_context = kPrompt;
  b.program().args = {Arg::tokens, Arg::position};
  const uint32_t x = b.value("x", DType::f32, Storage::input, {kTokens, kHidden});
  const uint32_t table = b.value("blocks", DType::i32, Storage::input, {kBlocks});
  const uint32_t cache = b.value("kv", DType::bf16, Storage::cache, {});
  const uint32_t y = b.value("y", DType::f32, Storage::output, {kTokens, kHidden});
  const uint32_t q = b.matmul(x, b.constant("wq", DType::f32, {kRow, kHidden}), Act::f32);
  const uint32_t a = b.attention(q, cache, table, Act::f32, layer, kHeads, kHeads, kHeadDim, 1 / std::sqrt(float(kHeadDim)), 0, kView);
  b.matmul(a, b.constant("wo", DType::f32, {kHidden, kRow}), Act::f32, 1, -1, y);
  BATON_ASSIGN(auto program, std::move(b).finish());
  const auto wq = numbers(kRow * kHidden, 100 + layer), wo = numbers(kHidden * kRow, 200 + layer);
  const baton_constant weights[] = {{"wq", wq.data(), wq.size() * 4}, {"wo", wo.data(), wo.size() * 4}};
  return device.load(baton::program::serialize(program), weights);
}

// `data` in a new buffer on `device`: written on the host, then copied.
baton::Result<baton::Buffer> upload(const baton::Instance& in, const baton::Device& host, const baton::Device& device, const void* data,
                                    uint64_t bytes) {
  BATON_ASSIGN(auto staging, host.alloc(bytes));
  BATON_ASSIGN(void* p, staging.map());
  std::memcpy(p, data, bytes);
  BATON_ASSIGN(auto to, device.alloc(bytes));
  BATON_ASSIGN(auto link, in.link(host, device));
  BATON_ASSIGN(auto there, in.timeline("upload"));
  BATON_TRY(link.submit(baton::copy(staging, 0, to, 0, bytes).signal(there, 1)));
  BATON_TRY(there.wait_until(1));
  return to;
}

// The whole step; the answer of every layer, [layers, hidden].
baton::Result<std::vector<float>> step(const baton::Instance& in, const std::string& prefill_uri, const std::string& decode_uri) {
  BATON_ASSIGN(auto host, in.open("host://"));
  BATON_ASSIGN(auto prefill_device, in.open(prefill_uri));
  BATON_ASSIGN(auto decode_device, in.open(decode_uri));
  BATON_ASSIGN(auto kv_p, prefill_device.alloc(kLayers * kLayerBytes));
  BATON_ASSIGN(auto kv_d, decode_device.alloc(kLayers * kLayerBytes));
  BATON_ASSIGN(auto answer, decode_device.alloc(kLayers * kHidden * 4));
  BATON_ASSIGN(auto seen, host.alloc(kLayers * kHidden * 4));
  const auto prompt = numbers(kPrompt * kHidden, 1000);
  const int32_t blocks[kBlocks] = {1, 0};  // the block table: pages need not be in order
  BATON_ASSIGN(auto x_p, upload(in, host, prefill_device, prompt.data(), kPrompt * kHidden * 4));
  BATON_ASSIGN(auto x_d, upload(in, host, decode_device, &prompt[(kPrompt - 1) * kHidden], kHidden * 4));
  BATON_ASSIGN(auto blocks_p, upload(in, host, prefill_device, blocks, sizeof blocks));
  BATON_ASSIGN(auto blocks_d, upload(in, host, decode_device, blocks, sizeof blocks));
  std::vector<baton::Program> make, attend;
  for (uint32_t l = 0; l < kLayers; ++l) {
    BATON_ASSIGN(auto m, load_make(prefill_device, l));
    BATON_ASSIGN(auto a, load_attend(decode_device, l));
    make.push_back(std::move(m));
    attend.push_back(std::move(a));
  }
  BATON_ASSIGN(auto prefill, prefill_device.queue());
  BATON_ASSIGN(auto link, in.link(prefill_device, decode_device));
  BATON_ASSIGN(auto decode, decode_device.queue());
  BATON_ASSIGN(auto back, in.link(decode_device, host));
  BATON_ASSIGN(auto made, in.timeline("made"));
  BATON_ASSIGN(auto landed, in.timeline("landed"));
  BATON_ASSIGN(auto ready, in.timeline("ready"));

  const int64_t all[] = {kPrompt, 0}, last[] = {1, kPrompt - 1};  // tokens, position
  for (uint64_t l = 0; l < kLayers; ++l) {
    const baton_binding from[] = {baton::bind("x", x_p), baton::bind("blocks", blocks_p), baton::bind("kv", kv_p)};
    const baton_binding to[] = {baton::bind("x", x_d), baton::bind("blocks", blocks_d), baton::bind("kv", kv_d),
                                baton::bind("y", answer, l * kHidden * 4, kHidden * 4)};
    const uint64_t at = l * kLayerBytes;
    BATON_TRY(prefill.submit(baton::launch(make[l], from, all)                           .signal(made,   l + 1)));
    BATON_TRY(link   .submit(baton::copy(kv_p, at, kv_d, at, kLayerBytes).wait(made,   l + 1).signal(landed, l + 1)));
    BATON_TRY(decode .submit(baton::launch(attend[l], to, last)          .wait(landed, l + 1).signal(ready,  l + 1)));
  }
  BATON_TRY(back.submit(baton::copy(answer, 0, seen, 0, answer.bytes()).wait(ready, kLayers).signal(ready, kLayers + 1)));
  BATON_TRY(ready.wait_until(kLayers + 1, baton::deadline_in_ms(60000)));  // or fails with the first cause, and the hop it took

  for (uint64_t l = 1; l <= kLayers && ready.modelled_ns(l); ++l)  // of an emulated device; nothing models the host
    std::printf("  layer %llu: made %.1f us, landed %.1f us, ready %.1f us (modelled)\n", static_cast<unsigned long long>(l),
                double(made.modelled_ns(l)) / 1e3, double(landed.modelled_ns(l)) / 1e3, double(ready.modelled_ns(l)) / 1e3);
  BATON_ASSIGN(void* p, seen.map());
  const auto* y = static_cast<const float*>(p);
  return std::vector<float>(y, y + kLayers * kHidden);
}

baton::Status run(const std::string& prefill, const std::string& decode) {
  BATON_ASSIGN(auto in, baton::Instance::create());
  std::printf("prefill on %s, decode on %s\n", prefill.c_str(), decode.c_str());
  BATON_ASSIGN(auto two, step(in, prefill, decode));
  std::printf("both on host://\n");
  BATON_ASSIGN(auto one, step(in, "host://", "host://"));
  if (std::memcmp(one.data(), two.data(), one.size() * sizeof one[0])) return baton::Error(BATON_MISMATCH, "the two answers differ");
  std::printf("%zu numbers, equal bit for bit\n", one.size());
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  baton::Status s = run(argc > 1 ? argv[1] : "emu+neuron://0", argc > 2 ? argv[2] : "emu+cs3://0");
  if (s.ok()) return 0;
  std::fprintf(stderr, "%s\nnext: %s\n", s.error().text().c_str(), s.error().next);
  return 1;
}
