// hand_over.cc: a KV-cache from one endpoint to another over a session, layer by layer: the transport alone, without a model.
//
// Both ends live in this process and talk over loopback; in production they are two processes on two hosts, and no line changes. The two
// sides keep KV differently (blocks of 16 and of 64 tokens, order by token and by head): the plan rearranges it on the way.
//
//     ./hand_over [FABRIC]        auto, mapped, shm, tcp
#include "transport/fabrics.hpp"
#include "transport/kv_link.hpp"

#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

namespace {

namespace transport = baton::transport;

transport::KvLayout layout(transport::KvOrder order, uint32_t block_tokens, uint32_t blocks) {
  transport::KvLayout l;
  l.layers = 4, l.kv_heads = 2, l.head_dim = 32;
  l.order = order, l.block_tokens = block_tokens, l.blocks = blocks;
  l.head_count = l.kv_heads;  // all heads are here: not sharded
  return l;
}

// The first byte of (layer 3, K, token 70, head 1): block 4 of 16 tokens here, block 1 of 64 tokens there.
uint64_t probe(const transport::KvLayout& l, const std::vector<int32_t>& blocks) {
  const auto view = l.strides();
  return 2 * (3 * view.layer_stride + uint64_t(blocks[70 / l.block_tokens]) * view.block_stride + 70 % l.block_tokens * view.token_stride +
              1 * view.head_stride);
}

baton::Status run(const std::string& fabric) {
  constexpr uint64_t tokens = 100;
  const auto there = layout(transport::KvOrder::head_major, 64, 4), here = layout(transport::KvOrder::token_major, 16, 8);
  const std::vector<int32_t> blocks_there = {2, 0}, blocks_here = {6, 1, 0, 5, 3, 2, 7};
  BATON_ASSIGN(auto in, baton::Instance::create());
  BATON_ASSIGN(auto host, in.open("host://"));
  const transport::Key key = transport::random_key();  // two processes share a key file: read_key_file

  // The decode side: a listener, and a landing buffer that it will disclose to whoever holds a ticket.
  BATON_ASSIGN(auto decode, transport::Endpoint::open(in, {.listen = "127.0.0.1:0", .key = key, .name = "decode"}));
  BATON_ASSIGN(auto landing, host.alloc(there.bytes()));
  BATON_ASSIGN(auto sink, transport::KvSink::create(in, decode, landing, there, "toy model"));
  BATON_ASSIGN(auto incoming, sink.expect(blocks_there, tokens));

  // The prefill side: a session, and the request's blocks.
  BATON_ASSIGN(auto prefill, transport::Endpoint::open(in, {.listen = "", .key = key, .name = "prefill"}));
  BATON_ASSIGN(auto session, prefill.connect(decode.address(), baton::deadline_in_ms(10000)));
  std::unique_ptr<transport::Session> peer;
  while (!(peer = decode.accept())) in.poll_wait(baton::deadline_in_ms(10));
  BATON_ASSIGN(auto kv, host.alloc(here.bytes()));
  BATON_ASSIGN(void* from, kv.map());
  std::memset(static_cast<char*>(from) + probe(here, blocks_here), 0x5a, 2 * here.head_dim);
  BATON_ASSIGN(auto transfer, transport::KvTransfer::open(in, *session, incoming.ticket(), {{&kv, here, blocks_here}}, tokens,
                                                          {.fabric = fabric, .model = "toy model"}, baton::deadline_in_ms(10000)));
  for (uint32_t l = 0; l < here.layers; ++l) BATON_TRY(transfer.queue().submit(transfer.copy(0, l)));  // .wait(made, l + 1) in a real prefill
  BATON_TRY(incoming.landed().wait_until(here.layers, baton::deadline_in_ms(10000)));
  BATON_TRY(transfer.seal({"first", {{"token", 42}}, {}}, baton::deadline_in_ms(10000)));

  BATON_ASSIGN(void* to, landing.map());
  const std::string sent(2 * here.head_dim, 0x5a);
  if (std::memcmp(static_cast<char*>(to) + probe(there, blocks_there), sent.data(), sent.size()))
    return baton::Error(BATON_CORRUPT, "token 70 is not where it belongs");
  const auto& stats = incoming.stats();
  std::printf("%llu bytes in %llu segments over %s; token 70 is where it belongs\n", static_cast<unsigned long long>(stats.bytes),
              static_cast<unsigned long long>(stats.segments), stats.fabric.c_str());
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  for (const auto& f : transport::list_fabrics()) std::printf("fabric %s: %s\n", f.name.c_str(), f.available ? "yes" : "no");
  baton::Status s = run(argc > 1 ? argv[1] : "auto");
  if (s.ok()) return 0;
  std::fprintf(stderr, "%s\nnext: %s\n", s.error().text().c_str(), s.error().next);
  return 1;
}
