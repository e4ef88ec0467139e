// Symbols on rectangles of PEs: what a copy puts where, against a naive mover; ports; what is counted on the wire; what is refused, and whose bug.
#include "tests/unit/cs3_test.hpp"

#include <sys/mman.h>

#include <numeric>
#include <random>

namespace baton::cs3::test {
namespace {

using ::testing::HasSubstr;

struct Array {
  uint16_t id = 0;
  uint32_t x, y, w, h, elements;
  std::vector<uint32_t> words{};  // as they should be: [y][x][k]
  uint32_t& at(uint32_t px, uint32_t py, uint32_t k) { return words[(uint64_t(py - y) * w + (px - x)) * elements + k]; }
};

class Symbols : public ::testing::TestWithParam<CarrierKind> {
 protected:
  static std::span<const uint8_t> bytes_of(const std::string& s) { return {reinterpret_cast<const uint8_t*>(s.data()), s.size()}; }
  SymbolReply reply() {
    SymbolReply r{};
    if (c.answer.size() >= sizeof r) std::memcpy(&r, c.answer.data(), sizeof r);
    return r;
  }
  Completion name(Submission s, const std::string& name, std::string* text = nullptr) {
    s.bytes = name.size();
    c.answer.clear();
    std::vector<uint8_t> payload(sizeof(SymbolReply));
    std::memcpy(payload.data(), name.data(), std::min(name.size(), payload.size()));
    return c.call(s, payload, 0, text);
  }
  Completion get_id(const std::string& n, std::string* text = nullptr) { return name(c.make(Op::get_id), n, text); }
  Completion symbol(const std::string& n, uint32_t x, uint32_t y, uint32_t w, uint32_t h, uint32_t elements, std::string* text = nullptr) {
    Submission s = c.make(Op::symbol);
    s.x = uint16_t(x), s.y = uint16_t(y), s.w = uint16_t(w), s.h = uint16_t(h);
    s.elements_per_pe = elements;
    return name(s, n, text);
  }
  Completion port(const std::string& n, uint16_t array, uint32_t x, uint32_t y, bool out, std::string* text = nullptr) {
    Submission s = c.make(Op::port);
    s.symbol = array, s.x = uint16_t(x), s.y = uint16_t(y), s.arg0 = out;
    return name(s, n, text);
  }
  Submission copy(Op op, uint16_t id, uint32_t x, uint32_t y, uint32_t w, uint32_t h, uint32_t elements, Order order, uint8_t bits) {
    Submission s = c.make(op);
    s.symbol = id;
    s.x = uint16_t(x), s.y = uint16_t(y), s.w = uint16_t(w), s.h = uint16_t(h);
    s.elements_per_pe = elements;
    s.order = uint8_t(order);
    s.element_bits = bits;
    s.bytes = s.total = uint64_t(w) * h * elements * (bits / 8);
    return s;
  }
  // In chunks of at most `most` bytes.
  void put(Submission s, std::span<const uint8_t> tensor, uint64_t most) {
    s.total = tensor.size();
    for (uint64_t at = 0; at < tensor.size(); at += most) {
      s.address = at;
      s.bytes = std::min<uint64_t>(most, tensor.size() - at);
      s.flags = uint16_t((s.flags & ~kMore) | (at + s.bytes < tensor.size() ? kMore : 0));
      std::string text;
      ASSERT_EQ(c.call(s, tensor.subspan(at, s.bytes), 0, &text).code, BATON_OK) << text;
    }
  }
  std::vector<uint8_t> get(Submission s) {
    std::string text;
    EXPECT_EQ(c.call(s, {}, uint32_t(s.bytes), &text).code, BATON_OK) << text;
    return c.answer;
  }
  TelemetryReply telemetry() {
    TelemetryReply t{};
    EXPECT_EQ(c.call(c.make(Op::telemetry), {}, sizeof t).code, BATON_OK);
    std::memcpy(&t, c.answer.data(), std::min(c.answer.size(), sizeof t));
    return t;
  }
  DaemonProcess daemon;
  RawClient c{daemon, GetParam()};
  std::mt19937 random{17};
};

// Where element i of a tensor of h x w x l lies, the slow way.
struct Place {
  uint32_t y, x, k;
};
Place place_of(uint64_t i, uint32_t h, uint32_t w, uint32_t l, Order order) {
  for (uint32_t y = 0; y < h; ++y)
    for (uint32_t x = 0; x < w; ++x)
      for (uint32_t k = 0; k < l; ++k)
        if (i == (order == Order::row_major ? (uint64_t(y) * w + x) * l + k : y + uint64_t(x) * h + uint64_t(k) * h * w)) return {y, x, k};
  return {};
}

TEST_P(Symbols, RandomRectanglesAgainstANaiveMover) {
  c.open_stream();
  Array a{.x = 3, .y = 5, .w = 6, .h = 4, .elements = 7};
  a.id = uint16_t(symbol("A", a.x, a.y, a.w, a.h, a.elements).handle);
  a.words.assign(uint64_t(a.w) * a.h * a.elements, 0);
  for (int round = 0; round < 120; ++round) {
    const uint32_t w = 1 + random() % a.w, h = 1 + random() % a.h, l = 1 + random() % a.elements;
    const uint32_t x = a.x + random() % (a.w - w + 1), y = a.y + random() % (a.h - h + 1);
    const Order order = Order(random() % 2);
    const uint8_t bits = random() % 2 ? 16 : 32;
    const uint32_t way = random() % 4;  // whole, along rows, along columns, by stride
    const uint32_t across = way == 3 ? 1 + random() % 4 : 1, down = way == 3 ? 1 + random() % 4 : 1;
    const uint32_t th = way == 2 ? 1 : 1 + (h - 1) / down, tw = way == 1 ? 1 : 1 + (w - 1) / across;
    std::vector<uint8_t> tensor(uint64_t(tw) * th * l * (bits / 8));
    for (auto& b : tensor) b = uint8_t(random());
    Submission s = copy(Op::memcpy_h2d, a.id, x, y, w, h, l, order, bits);
    s.flags = way == 1 ? kAlongRows : way == 2 ? kAlongColumns : 0;
    if (way == 3) s.row_stride = uint16_t(across), s.col_stride = uint16_t(down);
    put(s, tensor, bits / 8 * (1 + random() % 40));
    for (uint64_t i = 0; i < tensor.size() / (bits / 8); ++i) {
      uint32_t v = 0;
      std::memcpy(&v, tensor.data() + i * (bits / 8), bits / 8);
      const Place p = place_of(i, th, tw, l, order);
      for (uint32_t dy = 0; dy < (way == 2 ? h : 1); ++dy)
        for (uint32_t dx = 0; dx < (way == 1 ? w : 1); ++dx) a.at(x + p.x * across + dx, y + p.y * down + dy, p.k) = v;
    }
    // All of it, word for word; then a part, in an order and a width of its own.
    const auto all = get(copy(Op::memcpy_d2h, a.id, a.x, a.y, a.w, a.h, a.elements, Order::row_major, 32));
    ASSERT_EQ(all.size(), a.words.size() * 4);
    ASSERT_EQ(std::memcmp(all.data(), a.words.data(), all.size()), 0) << round;
    const uint8_t width = random() % 2 ? 16 : 32;
    const Order back = Order(random() % 2);
    const auto part = get(copy(Op::memcpy_d2h, a.id, x, y, w, h, l, back, width));
    for (uint64_t i = 0; i < uint64_t(w) * h * l; ++i) {
      uint32_t v = 0;
      std::memcpy(&v, part.data() + i * (width / 8), width / 8);
      const Place p = place_of(i, h, w, l, back);
      ASSERT_EQ(v, width == 16 ? a.at(x + p.x, y + p.y, p.k) & 0xffff : a.at(x + p.x, y + p.y, p.k)) << round;
    }
  }
}

// The example of the vendor's reference: 6 x 8 PEs, strides 3 and 2: columns 0 and 3 of rows 0, 2, 4, 6 receive.
TEST_P(Symbols, ByStrideTheOthersKeepWhatTheyHave) {
  c.open_stream();
  const uint16_t id = uint16_t(symbol("A", 0, 0, 6, 8, 1).handle);
  std::vector<uint32_t> tensor(8);
  for (uint32_t i = 0; i < 8; ++i) tensor[i] = i + 1;
  Submission s = copy(Op::memcpy_h2d, id, 0, 0, 6, 8, 1, Order::row_major, 32);
  s.row_stride = 3, s.col_stride = 2;
  const TelemetryReply before = telemetry();
  put(s, {reinterpret_cast<const uint8_t*>(tensor.data()), 32}, 32);
  EXPECT_EQ(telemetry().wavelets_in - before.wavelets_in, 8u) << "what is sent, not what it spans";
  const auto all = get(copy(Op::memcpy_d2h, id, 0, 0, 6, 8, 1, Order::row_major, 32));
  for (uint32_t y = 0, i = 0; y < 8; ++y)
    for (uint32_t x = 0; x < 6; ++x) {
      uint32_t v = 0;
      std::memcpy(&v, all.data() + (y * 6 + x) * 4, 4);
      EXPECT_EQ(v, x % 3 == 0 && y % 2 == 0 ? ++i : 0) << x << ", " << y;
    }
  s.total = s.bytes = 6 * 8 * 4;  // as if without strides
  std::string text;
  EXPECT_EQ(c.call(s, std::vector<uint8_t>(s.bytes), 0, &text).code, BATON_INVALID_ARGUMENT);
  EXPECT_THAT(text, ::testing::HasSubstr("has 8 elements"));
}

// A 16-bit element is a whole wavelet: the word on the wafer has a zero high half, whatever stood there, and the wire carries twice the bytes.
TEST_P(Symbols, SixteenBitsAreZeroExtendedAndWasteHalfTheWire) {
  c.open_stream();
  const uint16_t id = uint16_t(symbol("A", 0, 0, 2, 1, 4).handle);
  const std::vector<uint8_t> ones(32, 0xff);
  put(copy(Op::memcpy_h2d, id, 0, 0, 2, 1, 4, Order::row_major, 32), ones, 32);
  const TelemetryReply before = telemetry();
  const std::vector<uint8_t> halves{1, 0x80, 2, 0x80, 3, 0x80, 4, 0x80, 5, 0x80, 6, 0x80, 7, 0x80, 8, 0x80};
  put(copy(Op::memcpy_h2d, id, 0, 0, 2, 1, 4, Order::row_major, 16), halves, 16);
  const TelemetryReply after = telemetry();
  EXPECT_EQ(after.bytes_in - before.bytes_in, 16u);
  EXPECT_EQ(after.wire_bytes_in - before.wire_bytes_in, 32u);
  EXPECT_EQ(after.wavelets_in - before.wavelets_in, 8u);
  const auto words = get(copy(Op::memcpy_d2h, id, 0, 0, 2, 1, 4, Order::row_major, 32));
  for (uint32_t i = 0; i < 8; ++i) {
    uint32_t v = 0;
    std::memcpy(&v, words.data() + i * 4, 4);
    EXPECT_EQ(v, 0x8001 + i);
  }
}

TEST_P(Symbols, OrderAndChannelsHaveTheirPrice) {
  c.open_stream();
  const uint16_t id = uint16_t(symbol("A", 0, 0, 64, 64, 32).handle);
  const std::vector<uint8_t> tensor(64 * 64 * 32 * 4, 7);
  const auto cost = [&](Order order, uint8_t channels) {
    Submission s = copy(Op::memcpy_h2d, id, 0, 0, 64, 64, 32, order, 32);
    s.channels = channels;
    return c.call(s, tensor).cost_ns;
  };
  const uint64_t best = cost(Order::column_major, 16), one = cost(Order::column_major, 1), rows = cost(Order::row_major, 16);
  EXPECT_EQ(cost(Order::column_major, 0), best) << "0: all channels";
  EXPECT_GT(one, best * 3);
  EXPECT_GT(rows, best);
  const uint64_t fixed = 2 * best - cost(Order::column_major, 8);  // cost = fixed + bytes / rate, and 8 channels have half the rate
  EXPECT_NEAR(double(one - fixed) / double(best - fixed), 16, 0.1);
  EXPECT_NEAR(double(rows - fixed) / double(best - fixed), 2540.0 / 519, 0.1) << "measured on a CS-3: facts/cs3 1.2";
}

TEST_P(Symbols, TelemetryCountsTransfersNotChunks) {
  c.open_stream();
  const uint16_t id = uint16_t(symbol("A", 0, 0, 4, 4, 10).handle);
  const TelemetryReply before = telemetry();
  const std::vector<uint8_t> tensor(640, 1);
  Submission s = copy(Op::memcpy_h2d, id, 0, 0, 4, 4, 10, Order::column_major, 32);
  s.channels = 5;
  put(s, tensor, 100);
  get(copy(Op::memcpy_d2h, id, 0, 0, 4, 4, 10, Order::row_major, 32));
  const TelemetryReply t = telemetry();
  EXPECT_EQ(t.transactions - before.transactions, 2u);
  EXPECT_EQ(t.wavelets_in - before.wavelets_in, 160u);
  EXPECT_EQ(t.wavelets_out - before.wavelets_out, 160u);
  EXPECT_EQ(t.channel_bytes[4], 128u + 40u);
  EXPECT_EQ(t.channel_bytes[5], 40u) << "five channels in, all sixteen out";
  EXPECT_EQ(std::accumulate(t.channel_bytes, t.channel_bytes + kMaxChannels, uint64_t(0)), t.wire_bytes_in + t.wire_bytes_out);
}

TEST_P(Symbols, NamesLeadToWhatTheyAre) {
  c.open_stream();
  const Completion made = symbol("weights", 2, 3, 4, 5, 6);
  const SymbolReply first = reply();
  EXPECT_EQ(get_id("weights").handle, made.handle);
  const SymbolReply r = reply();
  EXPECT_EQ(std::memcmp(&first, &r, sizeof r), 0);
  EXPECT_EQ(r.bytes, sizeof r);
  EXPECT_EQ(r.kind, uint8_t(SymbolKind::array));
  EXPECT_EQ(r.x + r.y * 10 + r.w * 100 + r.h * 1000, 2 + 30 + 400 + 5000);
  EXPECT_EQ(r.elements_per_pe, 6u);
  EXPECT_STREQ(r.name, "weights");
  EXPECT_EQ(c.info().sram_used, 4096u) << "4 x 5 x 6 words, in granules";
  EXPECT_EQ(get_id("sram").handle, 1u);
  EXPECT_EQ(reply().kind, uint8_t(SymbolKind::linear));
  // The same words by their linear address: PE (3, 3) is the second.
  const std::vector<uint8_t> tensor{9, 0, 0, 0};
  put(copy(Op::memcpy_h2d, r.id, 3, 3, 1, 1, 1, Order::row_major, 32), tensor, 4);
  Submission s = c.make(Op::memcpy_d2h);
  s.mem = r.mem;
  s.address = r.base + 6 * 4;
  s.bytes = s.total = 4;
  EXPECT_EQ(get(s), tensor);
  Submission f = c.make(Op::free);
  f.mem = r.mem;
  EXPECT_EQ(c.call(f).code, BATON_INVALID_ARGUMENT) << "a symbol's memory is the session's";
}

// Host memory by descriptor, larger than a step.
TEST_P(Symbols, RectanglesOfRegisteredMemory) {
  if (GetParam() != CarrierKind::shm) GTEST_SKIP() << "descriptors pass on the unix socket";
  c.open_stream();
  constexpr uint64_t kBytes = 40ull * 30 * 600 * 4, kAt = 12;
  const Fd file(::memfd_create("t", MFD_CLOEXEC));
  ASSERT_EQ(::ftruncate(file.get(), kAt + kBytes), 0);
  auto* p = static_cast<uint8_t*>(::mmap(nullptr, kAt + kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0));
  ASSERT_NE(p, MAP_FAILED);
  const auto want = noise(kBytes, 3);
  std::memcpy(p + kAt, want.data(), kBytes);
  ASSERT_TRUE(c.link.carrier->pass_fd(file.get(), 1));
  Submission add = c.make(Op::region_add);
  add.region = 1;
  EXPECT_EQ(c.call(add).code, BATON_OK);
  const uint16_t id = uint16_t(symbol("A", 0, 0, 40, 30, 600).handle);
  for (const Order order : {Order::row_major, Order::column_major}) {
    for (const Op op : {Op::memcpy_h2d, Op::memcpy_d2h}) {
      Submission s = copy(op, id, 0, 0, 40, 30, 600, order, 32);
      s.where = uint8_t(Where::region), s.region = 1, s.payload_offset = kAt;
      std::string text;
      EXPECT_EQ(c.call(s, {}, 0, &text).code, BATON_OK) << text;
      if (op == Op::memcpy_h2d) std::memset(p + kAt, 0, kBytes);
    }
    EXPECT_EQ(std::memcmp(p + kAt, want.data(), kBytes), 0);
  }
  ::munmap(p, kAt + kBytes);
}

TEST_P(Symbols, PortsMovePairsOfWavelets) {
  c.open_stream();
  const uint16_t id = uint16_t(symbol("fifo", 1, 1, 2, 2, 8).handle);
  const uint16_t in = uint16_t(port("rx", id, 2, 1, false).handle), out = uint16_t(port("tx", id, 2, 1, true).handle);
  EXPECT_EQ(get_id("tx").handle, out);
  EXPECT_EQ(reply().kind, uint8_t(SymbolKind::output_port));
  const auto transfer = [&](Op op, uint16_t port, uint32_t wavelets, std::string* text) {
    Submission s = c.make(op);
    s.symbol = port;
    s.bytes = s.total = wavelets * 4;
    std::vector<uint8_t> payload(s.bytes);
    std::iota(payload.begin(), payload.end(), uint8_t(1));
    return op == Op::send ? c.call(s, payload, 0, text) : c.call(s, {}, uint32_t(s.bytes), text);
  };
  std::string text;
  EXPECT_EQ(transfer(Op::send, in, 6, &text).code, BATON_OK) << text;
  EXPECT_EQ(transfer(Op::receive, out, 4, &text).code, BATON_OK) << text;
  EXPECT_EQ(c.answer.size(), 16u);
  EXPECT_EQ(c.answer[15], 16);
  const auto words = get(copy(Op::memcpy_d2h, id, 2, 1, 1, 1, 6, Order::row_major, 32));
  EXPECT_EQ(words[23], 24) << "the port is that PE's memory";
  for (const Op op : {Op::send, Op::receive}) {
    EXPECT_EQ(transfer(op, op == Op::send ? in : out, 5, &text).code, BATON_INVALID_ARGUMENT);
    EXPECT_THAT(text, HasSubstr("not an even number of wavelets\nthe client's bug"));
  }
  EXPECT_EQ(transfer(Op::send, in, 10, &text).code, BATON_INVALID_ARGUMENT);
  EXPECT_THAT(text, HasSubstr("'rx' has 8"));
  EXPECT_EQ(transfer(Op::send, out, 2, &text).code, BATON_INVALID_ARGUMENT);
  EXPECT_EQ(transfer(Op::receive, in, 2, &text).code, BATON_INVALID_ARGUMENT);
  EXPECT_EQ(transfer(Op::send, id, 2, &text).code, BATON_INVALID_ARGUMENT);
  EXPECT_EQ(c.call(copy(Op::memcpy_h2d, in, 2, 1, 1, 1, 2, Order::row_major, 32), std::vector<uint8_t>(8), 0, &text).code, BATON_INVALID_ARGUMENT);
  EXPECT_EQ(port("far", id, 0, 1, false, &text).code, BATON_INVALID_ARGUMENT);
}

// A program's launch reads and writes symbols as it does buffers.
TEST_P(Symbols, LaunchesBindThem) {
  c.open_stream();
  const TinyDecode m = make_decode(4);
  Submission s = c.make(Op::load_begin);
  s.bytes = m.bytes.size();
  s.arg0 = m.constants.size();
  const uint32_t program = c.call(s).handle;
  s = c.make(Op::load_program);
  s.program = program;
  EXPECT_EQ(c.call(s, m.bytes).code, BATON_OK);
  for (const baton_constant& k : m.constants) {
    s = c.make(Op::load_constant);
    s.program = program;
    s.bytes = k.bytes;
    EXPECT_EQ(c.call(s, bytes_of(k.name)).code, BATON_OK);
    s = c.make(Op::load_chunk);
    s.program = program;
    EXPECT_EQ(c.call(s, {static_cast<const uint8_t*>(k.data), k.bytes}).code, BATON_OK);
  }
  s = c.make(Op::load_finish);
  s.program = program;
  EXPECT_EQ(c.call(s).code, BATON_OK);
  symbol("tokens", 0, 0, 5, 1, 1);
  const SymbolReply tokens = reply();
  put(copy(Op::memcpy_h2d, tokens.id, 0, 0, 5, 1, 1, Order::column_major, 32), std::vector<uint8_t>(20, 0), 20);
  std::vector<uint8_t> table(sizeof(LaunchHead) + sizeof(LaunchBinding) + 16);
  const LaunchHead head{1, 2, 0};
  LaunchBinding b{{}, tokens.mem, 0, tokens.base, 20};
  std::strcpy(b.name, "tokens");
  const int64_t args[] = {4, 0};
  std::memcpy(table.data(), &head, sizeof head);
  std::memcpy(table.data() + sizeof head, &b, sizeof b);
  std::memcpy(table.data() + sizeof head + sizeof b, args, sizeof args);
  s = c.make(Op::launch);
  s.program = program;
  std::string text;
  EXPECT_EQ(c.call(s, table, 0, &text).code, BATON_OK) << text;
  const auto got = get(copy(Op::memcpy_d2h, tokens.id, 0, 0, 5, 1, 1, Order::row_major, 32));
  EXPECT_GT(std::accumulate(got.begin(), got.end(), 0), 0) << "it decoded something";
}

TEST_P(Symbols, WhatCannotBeSaysWhoseBugItIs) {
  std::string text;
  const auto expect = [&](const Completion& done, int32_t code, const char* what) {
    EXPECT_EQ(done.code, code) << what;
    EXPECT_THAT(text, HasSubstr(what));
    EXPECT_THAT(text, HasSubstr("the client's bug"));
  };
  // Out of order, as SdkRuntime words it.
  expect(c.call(c.make(Op::run), {}, 0, &text), BATON_INVALID_ARGUMENT, "Cannot call run() multiple times, or call run() if load() has not been called");
  expect(symbol("A", 0, 0, 1, 1, 1, &text), BATON_INVALID_ARGUMENT, "a symbol before load");
  Submission wide = c.make(Op::load);
  wide.w = 756;
  expect(c.call(wide, {}, 0, &text), BATON_INVALID_ARGUMENT, "a program of 756x1170 at (0, 0) PEs: 755x1170 at (0, 0) are usable");
  Submission load = c.make(Op::load);
  load.w = 20, load.h = 10;
  EXPECT_EQ(c.call(load).code, BATON_OK);
  expect(c.call(load, {}, 0, &text), BATON_INVALID_ARGUMENT, "load comes twice");
  const uint16_t id = uint16_t(symbol("A", 2, 2, 4, 4, 8).handle);
  const std::vector<uint8_t> bytes(4 * 4 * 8 * 4);
  const Submission whole = copy(Op::memcpy_h2d, id, 2, 2, 4, 4, 8, Order::row_major, 32);
  expect(c.call(whole, bytes, 0, &text), BATON_INVALID_ARGUMENT, "SdkRuntime must be running to accept memcpy");
  EXPECT_EQ(c.call(c.make(Op::run)).code, BATON_OK);
  expect(c.call(c.make(Op::run), {}, 0, &text), BATON_INVALID_ARGUMENT, "Cannot call run() multiple times");
  EXPECT_EQ(c.call(whole, bytes).code, BATON_OK);
  // Names and rectangles.
  expect(get_id("B", &text), BATON_NOT_FOUND, "no symbol 'B'");
  EXPECT_THAT(text, HasSubstr("symbols: sram A"));
  expect(symbol("A", 0, 0, 1, 1, 1, &text), BATON_INVALID_ARGUMENT, "the symbol 'A' exists");
  expect(symbol("C", 18, 0, 3, 1, 1, &text), BATON_INVALID_ARGUMENT, "the symbol 'C' of 3x1 at (18, 0) PEs lies outside of the program's 20x10 at (0, 0)");
  expect(symbol(std::string(64, 'n'), 0, 0, 1, 1, 1, &text), BATON_INVALID_ARGUMENT, "a symbol's name of 64 bytes");
  Submission s = whole;
  s.x = 18;
  expect(c.call(s, bytes, 0, &text), BATON_INVALID_ARGUMENT, "the rectangle 4x4 at (18, 2) lies outside of the program's 20x10 at (0, 0)");
  s = whole;
  s.y = 3;
  expect(c.call(s, bytes, 0, &text), BATON_INVALID_ARGUMENT, "the rectangle 4x4 at (2, 3) lies outside of 'A', which is on 4x4 at (2, 2)");
  s = whole;
  s.elements_per_pe = 9;
  expect(c.call(s, bytes, 0, &text), BATON_INVALID_ARGUMENT, "9 elements a PE: 'A' has 8");
  s = whole;
  s.elements_per_pe = 7;
  expect(c.call(s, bytes, 0, &text), BATON_INVALID_ARGUMENT, "the host's tensor has 112 elements of 4 bytes");
  s = whole;
  s.address = 4;
  expect(c.call(s, bytes, 0, &text), BATON_INVALID_ARGUMENT, "512 bytes at 4 of 512");
  s = whole;
  s.symbol = 77;
  expect(c.call(s, bytes, 0, &text), BATON_NOT_FOUND, "there is no symbol 77");
  // 48 KB a PE, by what stands there already.
  EXPECT_EQ(symbol("D", 0, 0, 3, 3, 12288 - 9).code, BATON_OK) << "beside A on one PE";
  const Completion full = symbol("E", 2, 2, 1, 1, 2, &text);
  EXPECT_EQ(full.code, BATON_CAPACITY);
  EXPECT_THAT(text, HasSubstr("takes 8 bytes a PE: with the 49148 that one of 1x1 at (2, 2) holds, over its 49152\nat most 1 elements a PE fit there"));
  EXPECT_EQ(symbol("E", 2, 2, 1, 1, 1).code, BATON_OK);
  EXPECT_EQ(symbol("F", 3, 3, 1, 1, 12280).code, BATON_OK) << "only A is there";
  EXPECT_EQ(c.call(c.make(Op::stop)).code, BATON_OK);
  expect(c.call(c.make(Op::stop), {}, 0, &text), BATON_INVALID_ARGUMENT, "stop without run");
  expect(c.call(whole, bytes, 0, &text), BATON_INVALID_ARGUMENT, "SdkRuntime must be running");
  expect(c.call(c.make(Op::run), {}, 0, &text), BATON_INVALID_ARGUMENT, "Cannot call run() multiple times");
}

// A client of version 1.0 knows no load: its run is enough.
TEST_P(Symbols, AClientOfTheMinorBeforeIsServed) {
  if (GetParam() != CarrierKind::tcp) GTEST_SKIP() << "one handshake is enough";
  const auto at = daemon.address();
  const Fd fd = must(connect_tcp(at.host, at.port, soon()));
  Hello h = make_hello(CarrierKind::tcp);
  h.minor = 0;
  must(write_exact(fd.get(), &h, sizeof h, soon()));
  Welcome w{};
  must(read_exact(fd.get(), &w, sizeof w, soon()));
  EXPECT_EQ(w.code, BATON_OK);
  for (const Op op : {Op::run, Op::nop}) {
    Submission s{};
    s.id = 5;
    s.op = uint16_t(op);
    must(write_exact(fd.get(), &s, sizeof s, soon()));
    Completion done{};
    must(read_exact(fd.get(), &done, sizeof done, soon()));
    EXPECT_EQ(done.code, BATON_OK);
  }
}

INSTANTIATE_TEST_SUITE_P(Carriers, Symbols, ::testing::Values(CarrierKind::shm, CarrierKind::tcp),
                         [](const auto& i) { return i.param == CarrierKind::shm ? "shm" : "tcp"; });

}  // namespace
}  // namespace baton::cs3::test
