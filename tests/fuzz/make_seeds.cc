// make_seeds.cc: the binary inputs that the corpus begins with, from the project's own writers: run again when a format changes.
//
//     ninja -C build/release fuzz_seeds && build/release/bin/fuzz_seeds tests/fuzz/corpus
#include "drivers/cs3/link/connect.h"
#include "drivers/neuron/neff.hpp"
#include "tests/fuzz/program_io.h"
#include "tests/unit/engine_model.h"
#include "tools/baton/wire.hpp"
#include "transport/kv_wire.hpp"
#include "transport/spill_index.hpp"

#include <filesystem>
#include <fstream>

namespace baton::fuzz {
namespace {

using nlohmann::json;

std::string root;

void put(const std::string& target, const std::string& name, const std::string& bytes) {
  std::filesystem::create_directories(root + "/" + target);
  std::ofstream(root + "/" + target + "/" + name, std::ios::binary) << bytes;
}
template <class T>
std::string raw(const T& v) {
  return {reinterpret_cast<const char*>(&v), sizeof v};
}
std::string text_of(std::span<const uint8_t> b) { return {reinterpret_cast<const char*>(b.data()), b.size()}; }

test::Model tiny() {
  test::Model m;
  m.vocabulary = 11, m.hidden = 8, m.heads = 2, m.kv_heads = 1, m.head_dim = 4, m.ffn = 8, m.layers = 1;
  m.segments = 2, m.block_tokens = 4, m.max_tokens = 4, m.max_context = 16;
  return m;
}

program::Program doubling() {
  program::Builder b("double");
  const uint32_t x = b.value("x", program::DType::f32, program::Storage::input, {1, 4});
  const uint32_t y = b.value("y", program::DType::f32, program::Storage::output, {1, 4});
  b.program().ops.push_back({.code = program::OpCode::add, .in = {x, x}, .out = {y}});
  b.mark();
  auto p = std::move(b).finish();
  FUZZ_CHECK(p.ok());
  return std::move(*p);
}

// Two ranks that meet in every way there is.
program::Program meeting() {
  program::Builder b("meet");
  b.program().ranks = 2;
  b.program().args = {program::Arg::tokens};
  b.program().max_tokens = 4;
  const uint32_t x = b.value("x", program::DType::f32, program::Storage::input, {program::kTokens, 8});
  const uint32_t y = b.value("y", program::DType::f32, program::Storage::output, {program::kTokens, 8});
  const uint32_t whole = b.all_gather(b.reduce_scatter(b.all_reduce(x)));
  b.program().ops.push_back({.code = program::OpCode::add, .in = {x, whole}, .out = {y}});
  auto p = std::move(b).finish();
  FUZZ_CHECK(p.ok());
  return std::move(*p);
}

void programs() {
  for (const bool loop : {false, true})
    for (const bool odd : {false, true}) {
      test::Model m = tiny();
      m.qk_norm = m.bias = m.tied = odd;
      m.order = odd ? test::KvOrder::block_major : test::KvOrder::token_major;
      m.dtype = odd ? program::DType::f16 : program::DType::bf16;
      m.window = odd ? 3 : 0;
      if (loop) m.stops = {3};
      auto p = test::build_model(m, test::random_weights(m), loop).finish();
      FUZZ_CHECK(p.ok());
      const std::string name = std::string(loop ? "decode" : "prefill") + (odd ? "-odd" : "");
      put("program", name, text_of(program::serialize(*p)));
      std::string launch;  // arguments, then a byte and sixteen bytes of each binding; 1-based bytes so that ids are in the vocabulary
      launch += raw(uint16_t(2)) + raw(uint16_t(0)) + raw(uint16_t(loop ? 256 : 0)) + raw(uint16_t(256)) + raw(uint16_t(7)) + raw(uint16_t(1));
      launch += std::string(64, '\0');
      put("engine", name, ProgramWriter().all(*p).bytes + launch);
    }
  program::Program p = doubling();
  put("program", "double", text_of(program::serialize(p)));
  put("program", "meet", text_of(program::serialize(meeting())));
  put("engine", "double", ProgramWriter().all(p).bytes + "abcdefghijklmnopqrstuvwxyz");
}

void containers() {
  const std::vector<uint8_t> program = program::serialize(doubling());
  const uint8_t data[16] = {1, 2, 3};
  const baton_constant c[] = {{"w", data, sizeof data}, {"v", data, 3}};
  const baton_constant input[] = {{"w", nullptr, sizeof data}};
  auto inputs = neuron::Neff::build("double", 2, program, input);
  FUZZ_CHECK(inputs.ok());
  put("neff", "inputs", std::string(1, '\0') + text_of({inputs->data(), inputs->bytes()}));
  for (const size_t constants : {0, 2}) {
    auto neff = neuron::Neff::build("double", 2, program, std::span(c, constants));
    FUZZ_CHECK(neff.ok());
    put("neff", "constants-" + std::to_string(constants), "\x01" + text_of({neff->data(), neff->bytes()}));
    put("neff", "as-is-" + std::to_string(constants), std::string(1, '\0') + text_of({neff->data(), neff->bytes()}));
  }
}

struct Commands {
  std::string bytes;
  uint64_t id = 0;
  cs3::Submission make(cs3::Op op) {
    cs3::Submission s{};
    s.op = uint16_t(op);
    s.id = ++id;
    return s;
  }
  void send(cs3::Submission s, std::string_view payload = {}, uint32_t answer = 0) {
    if (!payload.empty() || answer) {
      s.where = uint8_t(cs3::Where::arena);
      s.payload_bytes = std::max(uint32_t(payload.size()), answer);
    }
    bytes += raw(s);
    if (cs3::inline_bytes(s)) bytes += payload;
  }
};

// Program 1: y = 2x.
void load_doubling(Commands& c) {
  using cs3::Op;
  const std::string program = text_of(program::serialize(doubling()));
  cs3::Submission l = c.make(Op::load_begin);
  l.bytes = program.size();
  c.send(l);
  l = c.make(Op::load_program);
  l.program = 1;
  c.send(l, program);
  l = c.make(Op::load_finish);
  l.program = 1;
  c.send(l);
}

// A program with its launch; memory, copies, fills; what is asked of the daemon.
Commands session_of_commands() {
  using cs3::Op;
  Commands c;
  c.send(c.make(Op::load));
  c.send(c.make(Op::run));
  c.send(c.make(Op::info), {}, sizeof(cs3::InfoReply));
  c.send(c.make(Op::telemetry), {}, sizeof(cs3::TelemetryReply));
  c.send(c.make(Op::get_id), "sram");
  for (int i = 0; i < 2; ++i) {
    cs3::Submission a = c.make(Op::alloc);
    a.bytes = 4096;
    c.send(a);
  }
  cs3::Submission m = c.make(Op::memcpy_h2d);
  m.mem = 1, m.bytes = m.total = 16;
  c.send(m, std::string(16, '\x3f'));
  load_doubling(c);
  cs3::LaunchHead head{2, 0, 0};
  cs3::LaunchBinding x{}, y{};
  Error::put(x.name, "x"), x.mem = 1, x.bytes = 16;
  Error::put(y.name, "y"), y.mem = 2, y.address = 4096, y.bytes = 16;
  cs3::Submission l = c.make(Op::launch);
  l.program = 1, l.flags = cs3::kWantProgress;
  c.send(l, raw(head) + raw(x) + raw(y));
  m = c.make(Op::memcpy_d2h);
  m.mem = 2, m.address = 4096, m.bytes = m.total = 16;
  c.send(m, {}, 16);
  m = c.make(Op::copy);
  m.mem = 1, m.bytes = 64, m.src_mem = 2, m.src_address = 4096;
  c.send(m);
  m = c.make(Op::fill);
  m.mem = 1, m.bytes = 64, m.arg0 = 7, m.arg1 = 4;
  c.send(m);
  m = c.make(Op::cancel);
  m.arg0 = 3;
  c.send(m);
  m = c.make(Op::unload);
  m.program = 1;
  c.send(m);
  m = c.make(Op::free);
  m.mem = 1;
  c.send(m);
  c.send(c.make(Op::reset));
  c.send(c.make(Op::stop));
  return c;
}

// Launches in slots: alone, and as stages of a pipeline whose every other stage is this session (the target finds it by any key); then what cannot be.
Commands session_of_stages() {
  using cs3::Op;
  Commands c;
  c.send(c.make(Op::load));
  c.send(c.make(Op::run));
  for (int i = 0; i < 2; ++i) {
    cs3::Submission a = c.make(Op::alloc);
    a.bytes = 4096;
    c.send(a);
  }
  load_doubling(c);
  c.send(c.make(Op::peer_key), {}, 16);
  for (const uint64_t number : {0, 1, 16}) {  // this session, a daemon elsewhere, a number too high
    cs3::Submission s = c.make(Op::peer_open);
    s.arg0 = number;
    c.send(s, std::string(16, number == 1 ? 'x' : 's') + "127.0.0.1:9000");
  }
  uint64_t launch = 0;
  const auto stage = [&](uint16_t slot, uint8_t at, uint8_t of, cs3::Role in, cs3::Role out, uint32_t peer, uint64_t bytes = 16) {
    cs3::LaunchHead head{2, 0, slot, at, of};
    cs3::LaunchBinding x{}, y{};
    Error::put(x.name, "x"), x.role = uint32_t(in), x.mem = in == cs3::Role::memory, x.bytes = bytes;
    Error::put(y.name, "y"), y.role = uint32_t(out), y.mem = out == cs3::Role::memory ? 2 : 0, y.address = y.mem ? 4096 : 0, y.bytes = bytes;
    cs3::Submission l = c.make(Op::launch);
    l.program = 1, l.flags = cs3::kWantProgress | cs3::kInSlot, l.arg1 = ++launch, l.mem = peer;
    c.send(l, raw(head) + raw(x) + raw(y));
    return l.id;
  };
  using enum cs3::Role;
  stage(3, 0, 0, memory, memory, 0);
  stage(4, 0, 2, memory, output, 0);
  const uint64_t waits = stage(4, 1, 2, input, memory, 0);
  stage(4, 1, 3, input, output, 0);
  cs3::Submission cancel = c.make(Op::cancel);
  cancel.arg0 = waits;
  c.send(cancel);
  stage(5, 0, 2, memory, output, 1);        // its peer is not there
  stage(6, 5, 3, input, output, 0);         // no such stage
  stage(6, 0, 17, memory, output, 0);
  stage(300, 0, 2, memory, output, 0);      // no such slot
  stage(7, 0, 2, memory, memory, 0);        // without an output
  stage(7, 0, 2, memory, tokens, 0);
  stage(8, 0, 2, memory, output, 0, 1ull << 40);
  c.send(c.make(Op::stop));
  return c;
}

// What the stage before says to one of three: the byte in front says which, and how the bytes arrive.
void stages() {
  const auto frame = [](cs3::StageSays says, uint32_t iteration, const std::string& payload, uint64_t number = 2) {
    cs3::PeerFrame f{number, 100, iteration, uint32_t(payload.size()), 0, uint8_t(says), {}};
    return raw(f) + payload;
  };
  using enum cs3::StageSays;
  const std::string row(64, '\x01'), token("\x05\0\0\0", 4);
  std::string rows, tokens;
  for (uint32_t i = 0; i < 4; ++i) rows += frame(i == 3 ? last : data, i, row), tokens += frame(data, i, token);
  const auto head = [&](char which) { return std::string(1, which) + std::string("\0\x04", 2); };
  put("wafer_stage", "first", head('\x1e') + tokens);
  put("wafer_stage", "middle", head('\x1c') + frame(failed, 9, {}, 1) + rows + frame(end, 4, {}));
  put("wafer_stage", "final", head('\x1d') + rows + frame(end, 4, {}));
  put("wafer_stage", "stop", head('\x1e') + frame(data, 0, token) + frame(last, 1, token));
  put("wafer_stage", "ends", head('\x1d') + frame(end, 0, {}));
  put("wafer_stage", "fails", head('\x1d') + rows.substr(0, 96) + frame(failed, 1, {}));
  put("wafer_stage", "out-of-turn", head('\x1d') + frame(data, 1, row));
  put("wafer_stage", "long", head('\x1d') + frame(data, 0, row + row));
  put("wafer_stage", "small", std::string("\x1d\x2a\x04", 3) + rows);
  put("wafer_stage", "none", std::string("\x1e\x3f\x04", 3) + tokens);
  put("wafer_stage", "no-frame", head('\x1d') + std::string(40, '\xff'));
}

cs3::Submission on_pes(cs3::Op op, uint16_t symbol) {
  cs3::Submission s = Commands().make(op);
  s.symbol = symbol, s.x = 2, s.y = 1, s.w = 2, s.h = 2, s.elements_per_pe = 2;
  return s;
}

// Symbols on PEs: copies whole, in chunks, of 16 bits, along rows; ports; what cannot be; the fault plan.
Commands session_of_symbols() {
  using cs3::Op;
  Commands c;
  c.send(c.make(Op::load));
  c.send(c.make(Op::run));
  cs3::Submission name = on_pes(Op::symbol, 0);
  name.bytes = 1;
  c.send(name, "A" + std::string(sizeof(cs3::SymbolReply) - 1, '\0'));
  name = c.make(Op::get_id);
  name.bytes = 1;
  c.send(name, "A" + std::string(sizeof(cs3::SymbolReply) - 1, '\0'));
  for (const uint64_t out : {0, 1}) {
    cs3::Submission p = on_pes(Op::port, 2);
    p.arg0 = out, p.bytes = 2;
    c.send(p, out ? "tx" : "rx");
  }
  cs3::Submission m = on_pes(Op::memcpy_h2d, 2);
  m.bytes = 16, m.total = 32, m.order = 1, m.flags = cs3::kMore;
  c.send(m, std::string(16, 'a'));
  m.address = 16, m.flags = 0;
  c.send(m, std::string(16, 'b'));
  m = on_pes(Op::memcpy_h2d, 2);
  m.bytes = m.total = 8, m.element_bits = 16, m.flags = cs3::kAlongRows;
  c.send(m, std::string(8, 'c'));
  m = on_pes(Op::memcpy_d2h, 2);
  m.bytes = m.total = 16, m.element_bits = 16, m.channels = 3;
  c.send(m, {}, 16);
  for (const auto& [op, port] : {std::pair(Op::send, 3), std::pair(Op::receive, 4)}) {
    m = c.make(op);
    m.symbol = uint16_t(port), m.bytes = m.total = 8;
    c.send(m, op == Op::send ? std::string(8, 'd') : std::string(), op == Op::send ? 0 : 8);
  }
  m = on_pes(Op::memcpy_h2d, 2);
  m.x = 700, m.bytes = m.total = 32;
  c.send(m, std::string(32, 'e'));
  cs3::Submission f = c.make(Op::fault);
  f.arg0 = 1;
  c.send(f, R"({"seed": 1, "dead_channels": [3], "bad_rows": [1], "slow_ingress": 2, "rules": [{"call": "nop", "nth": 1, "action": "lose_wafer"}, {"call": "launch", "action": "hang"}]})");
  f.arg0 = 0;
  c.send(f, {}, 4096);
  c.send(c.make(Op::nop));
  c.send(c.make(Op::reset));
  return c;
}

void wafer() {
  const cs3::Hello hello = cs3::make_hello(cs3::CarrierKind::tcp);
  cs3::Hello plain = hello;
  std::memset(plain.boot_id, 0, sizeof plain.boot_id), plain.pid = 1;
  const std::string commands = session_of_commands().bytes;
  put("wafer_daemon", "tcp", std::string(1, '\0') + raw(plain) + commands);
  cs3::Submission scribble{};
  scribble.op = 0xffff, scribble.arg0 = 5000, scribble.arg1 = 1;
  put("wafer_daemon", "rings", "\x01" + raw(plain) + commands);
  put("wafer_daemon", "tcp-symbols", std::string(1, '\0') + raw(plain) + session_of_symbols().bytes);
  put("wafer_daemon", "rings-symbols", "\x01" + raw(plain) + session_of_symbols().bytes);
  put("wafer_daemon", "tcp-stages", std::string(1, '\0') + raw(plain) + session_of_stages().bytes);
  put("wafer_daemon", "rings-stages", "\x01" + raw(plain) + session_of_stages().bytes);
  put("wafer_daemon", "rings-scribble", "\x01" + raw(plain) + commands.substr(0, 128) + raw(scribble));

  cs3::Welcome w{};
  std::memcpy(w.magic, cs3::kMagic, sizeof cs3::kMagic);
  w.major = cs3::kVersionMajor, w.minor = cs3::kVersionMinor, w.emulated = 1;
  cs3::Welcome refused = w;
  refused.code = BATON_BUSY;
  Error::put(refused.text, "64 clients are connected, which is the most\nclose one of them");
  for (const bool rings : {false, true}) {
    std::string answers = rings ? "" : "\x08";
    for (uint64_t i = 0; i < 8; ++i) {
      cs3::Completion c{};
      c.id = (i + 1) << 16 | i;
      c.kind = uint8_t(i == 3 ? cs3::Kind::progress : cs3::Kind::done);
      if (i == 5) c.code = BATON_BUSY, c.text_bytes = 9;
      if (!rings && i == 1) c.payload_bytes = 64;
      if (i == 6) c.id = 0, c.kind = uint8_t(cs3::Kind::lost);
      if (rings) answers += i ? '\0' : '\x08';
      answers += raw(c) + (c.text_bytes ? "busy\nwait" : "") + std::string(c.payload_bytes, 'x');
    }
    put("wafer_client", rings ? "rings" : "tcp", char(rings) + raw(rings ? refused : w) + answers);
  }
}

std::string frame(transport::FrameKind kind, const std::string& type, const json& body, const std::string& bytes = "") {
  const std::string j = json{{"t", type}, {"b", body}}.dump();
  return char(kind) + raw(uint16_t(j.size())) + j + raw(uint16_t(bytes.size())) + bytes;
}

transport::KvLayout layout(transport::KvOrder order, uint32_t block_tokens) {
  transport::KvLayout l;
  l.layers = 2, l.kv_heads = 2, l.head_dim = 8, l.order = order, l.block_tokens = block_tokens, l.blocks = 4, l.head_count = 2;
  return l;
}

std::string table(const std::vector<int32_t>& blocks) {
  std::vector<uint8_t> bytes;
  transport::put_blocks(bytes, blocks);
  return {bytes.begin(), bytes.end()};
}

void sessions() {
  using transport::FrameKind;
  const std::string identity = frame(FrameKind::identity, "identity", {{"name", "peer"}, {"host", "elsewhere"}, {"pids", "p"}, {"pid", 1}, {"lease_ns", 1500000000}});
  const json mine = transport::to_json(layout(transport::KvOrder::token_major, 4));
  const json error = transport::to_json(Error(BATON_CANCELLED, "no more", "try again", "neuron://0"));
  const transport::Signal signal{1, 5, 100};
  std::string s = identity + frame(FrameKind::transport, "tl.import", {{"from", 7}, {"name", "made"}, {"signal", true}});
  s += std::string(1, '\x05') + raw(uint16_t(0)) + raw(uint16_t(sizeof signal)) + raw(signal);
  s += frame(FrameKind::user, "hello", {{"model", "m"}}, "bytes");
  s += frame(FrameKind::transport, "tl.poison", {{"to", 1}, {"error", error}});
  s += frame(FrameKind::transport, "tl.close", {{"from", 7}}) + frame(FrameKind::heartbeat, "", {}) + frame(FrameKind::bye, "", {});
  put("session", "exports-timeline", std::string(1, '\0') + s);
  s = identity + frame(FrameKind::transport, "kv.open", {{"id", 9}, {"ticket", "TICKET"}, {"model", "model"}, {"tokens", 6}, {"fabrics", {"mapped"}}, {"sources", {mine}}}, table({1, 0}));
  s += frame(FrameKind::transport, "kv.seal", {{"id", 9}, {"type", "first"}, {"body", {{"token", 1}}}});
  s += frame(FrameKind::transport, "kv.abort", {{"id", 9}, {"error", error}}) + frame(FrameKind::transport, "kv.gone", {{"sink", "s"}});
  put("session", "expects-hand-over", std::string(1, '\0') + s);
  s = identity + frame(FrameKind::transport, "tl.accept", {{"to", 1}, {"from", 3}, {"value", 4}, {"modelled", 10}, {"board", 5}, {"slot", 0}});
  s += frame(FrameKind::transport, "tl.poison", {{"to", 1}, {"error", error}});
  put("session", "imports", "\x01" + s);
  put("session", "imports-refused", "\x01" + identity + frame(FrameKind::transport, "tl.refuse", {{"to", 1}, {"error", error}}));
  std::string accept = frame(FrameKind::transport, "kv.accept", {{"id", "X"}, {"generation", 11}, {"slot", 0}, {"fabric", "mapped"}, {"layout", mine},
                                                               {"plan", 1}, {"held", 0}, {"offer", {{"sink", "s"}, {"socket", "none"}, {"token", std::string(64, 'a')}}}}, table({2, 3}));
  // ID stands for a number, which the writer of JSON would put in quotes.
  const size_t at = accept.find("\"X\"");
  accept.replace(at, 3, " ID");
  put("session", "opens", "\x02" + identity + accept);
  std::string refuse = frame(FrameKind::transport, "kv.refuse", {{"id", "X"}, {"error", error}});
  refuse.replace(refuse.find("\"X\""), 3, " ID");
  put("session", "opens-refused", "\x02" + identity + refuse);

  put("session", "refused", std::string(1, '\0') + identity + frame(FrameKind::refuse, "refuse", {{"why", "removed"}}));

  // Pieces of 64 (a hello) and of what follows it: by a key, and (2, 3) by identities.
  std::string hello(64, '\x09');
  std::memcpy(hello.data(), "BATONSES\x02\0\0\0\0\0\x01\0", 16);
  put("handshake", "server", std::string(1, '\0') + '\x3f' + hello + '\x38' + std::string(1, '\0') + std::string(56, 'p'));
  put("handshake", "client", "\x01" "\x5f" + hello + std::string(32, 'm'));
  std::string other = hello;
  other[8] = 3;
  put("handshake", "server-version", std::string(1, '\0') + '\x3f' + other);
  put("handshake", "client-version", "\x01" "\x3f" + other);
  hello[14] = 2;
  put("handshake", "identity-server", "\x02" "\x3f" + hello + '\x68' + std::string(1, '\0') + std::string(104, 'p'));
  put("handshake", "identity-server-unknown", "\x02" "\x3f" + hello + '\x20' + '\1' + std::string(32, 'm'));
  put("handshake", "identity-client", "\x03" "\x8f" + hello + std::string(80, 'm'));
  put("handshake", "ways", "\x01" "\x3f" + hello);
}

void kv() {
  using transport::KvOrder;
  int n = 0;
  for (const auto from : {KvOrder::token_major, KvOrder::head_major, KvOrder::block_major})
    for (const auto to : {KvOrder::token_major, KvOrder::head_major}) {
      transport::KvLayout a = layout(from, 4), b = layout(from, 4);
      a.head_count = b.head_begin = b.head_count = 1;
      const json j = {{"sources", {transport::to_json(a), transport::to_json(b)}}, {"sink", transport::to_json(layout(to, 8))}, {"blocks", {3, 1, 0}}, {"tokens", 10},
                      {"error", transport::to_json(Error(BATON_PEER_LOST, "gone", "again"))}};
      put("kv_wire", "layouts-" + std::to_string(n++), j.dump());
    }
}

void messages() {
  using namespace runtime;
  const auto message = [](const char* name, char which, const transport::Message& m) {
    put("messages", name, which + m.body.dump() + '\0' + text_of(m.bytes));
  };
  Hello h;
  h.role = "decode", h.model = "m", h.leg.role = "decode", h.leg.spans = {{"lane 0", "decode", 1, 2, 3, 4, 5, false}};
  message("hello", 0, h.message());
  message("reserve", 1, Reserve{1, "m", 5, 6, {}, true, false}.message());
  message("prefill", 2, Prefill{1, "m", {1, 2, 3}, {}, false, 7}.message());
  message("handover", 3, Handover{1, "ticket", "127.0.0.1:7000", "tcp"}.message());
  message("failed", 3, failed_message(1, Error(BATON_PEER_LOST, "gone", "again")));
}

// An index with two base records, a replaced block, a dropped one and a mark; whole, and with its last records torn.
void spill() {
  using namespace transport;
  SpillHeader h{.slots = 8, .block_bytes = 4096, .layout = 5, .id = 77, .base = 2, .next_generation = 9};
  seal_header(h);
  SpillRecord records[] = {{SpillKind::put, 0, {1, 1}, 4096, 3, 11, 0, 0}, {SpillKind::put, 4, {2, 2}, 1, 8, 12, 0, 0}, {SpillKind::put, 1, {1, 1}, 9, 9, 13, 2, 0},
                           {SpillKind::put, 2, {3, 3}, 9, 10, 14, 2, 0},   {SpillKind::drop, 4, {2, 2}, 0, 8, 0, 4, 0}, {SpillKind::mark, 0, {}, 0, 0, 0, 5, 0}};
  std::string index = raw(h);
  for (uint64_t i = 0; i < std::size(records); ++i) {
    seal_record(records[i], h, i);
    index += raw(records[i]);
  }
  put("spill", "whole", '\0' + index);
  put("spill", "torn", '\6' + index.substr(0, index.size() - 20));
  put("spill", "damaged", '\4' + index);
  put("spill", "empty", '\xff' + index.substr(0, kSpillUnit));
}

}  // namespace
}  // namespace baton::fuzz

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  using namespace baton::fuzz;
  root = argv[1];
  programs();
  containers();
  wafer();
  stages();
  sessions();
  kv();
  messages();
  spill();
}
