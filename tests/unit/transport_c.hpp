// transport_c.hpp: two endpoints of baton_kv.h in one process that share an instance, a layout, and blocks to move.
#pragma once

#include "transport/baton_kv.h"

#include "hal/baton.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <numeric>
#include <vector>

using baton::Error;
using testing::HasSubstr;

constexpr uint64_t kSoonMs = 60'000;
constexpr uint32_t kLayers = 32;

inline uint64_t soon() { return baton::deadline_in_ms(kSoonMs); }

struct KvC : testing::Test {
  baton::Instance in = std::move(*baton::Instance::create());
  uint8_t key[32] = {1, 2, 3};
  Error e;
  baton_kv_endpoint *decode = open("127.0.0.1:0"), *prefill = open(nullptr);
  baton_kv_session *from = nullptr, *to = nullptr; // decode's and prefill's end
  baton_kv_layout layout{.struct_size = sizeof layout, .layers = kLayers, .kv_heads = 2, .head_dim = 16, .block_tokens = 16, .blocks = 8};
  std::vector<uint8_t> source, target;
  std::vector<int32_t> blocks = {3, 1, 2};

  ~KvC() override {
    baton_kv_endpoint_close(prefill);
    baton_kv_endpoint_close(decode);
  }
  baton_kv_endpoint* open(const char* listen) {
    baton_kv_endpoint_options o{.struct_size = sizeof o, .instance = in.get(), .listen = listen, .name = listen ? "decode" : "prefill", .key = key};
    baton_kv_endpoint* ep = nullptr;
    EXPECT_EQ(baton_kv_endpoint_open(&o, &ep, &e), BATON_OK) << e.text();
    return ep;
  }
  void connect() {
    ASSERT_EQ(baton_kv_connect(prefill, baton_kv_endpoint_address(decode), soon(), &to, &e), BATON_OK) << e.text();
    ASSERT_EQ(baton_kv_accept(decode, soon(), &from, &e), BATON_OK) << e.text();
  }
  baton_kv_pool* pool(baton_kv_endpoint* ep, std::vector<uint8_t>& memory, const char* model = "m") {
    uint64_t bytes = 0;
    EXPECT_EQ(baton_kv_layout_facts(&layout, nullptr, &bytes, &e), BATON_OK) << e.text();
    memory.resize(bytes);
    baton_kv_pool_options o{.struct_size = sizeof o, .memory = BATON_KV_MEMORY_HOST, .base = memory.data(), .bytes = bytes, .layout = &layout, .model = model};
    baton_kv_pool* p = nullptr;
    EXPECT_EQ(baton_kv_register(ep, &o, &p, &e), BATON_OK) << e.text();
    return p;
  }
  int32_t grant(baton_kv_pool* p, baton_kv_grant*& g, uint64_t tokens = 48, uint64_t user = 0) {
    baton_kv_grant_options o{.struct_size = sizeof o, .session = from, .blocks = blocks.data(), .block_count = blocks.size(), .tokens = tokens, .user = user};
    return baton_kv_grant_blocks(p, &o, &g, &e);
  }
  int32_t push(baton_kv_pool* p, const char* ticket, baton_kv_push*& out, const char* fabric = "tcp", decltype(&baton_kv_push_open) how = baton_kv_push_open) {
    const baton_kv_source s{p, blocks.data(), blocks.size()};
    baton_kv_push_options o{.struct_size = sizeof o, .source_count = 1, .sources = &s, .ticket = ticket, .fabric = fabric, .tokens = 48, .deadline_ns = soon()};
    return how(to, &o, &out, &e);
  }
  // The next event of a kind; others of the endpoint are dropped.
  baton_kv_event until(baton_kv_endpoint* ep, uint32_t kind) {
    baton_kv_event v{};
    for (const uint64_t end = soon(); baton::now_ns() < end;) {
      v.struct_size = sizeof v;
      if (!baton_kv_wait(ep, &v, 1, end)) break;
      if (v.kind == kind) return v;
    }
    ADD_FAILURE() << "no event " << kind;
    return {};
  }
};
