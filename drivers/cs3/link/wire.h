// wire.h: what crosses the wafer link: handshake, submission (128 bytes), completion (64 bytes). PROTOCOL.md is the one-page text.
//
// Owner    plain data, little-endian, no pointers.   Threads  any.   Cost  check() is a few compares.
// Errors   check() says in one line what is wrong with an entry; neither side uses an entry that it has not checked, and each
//          checks a private copy, so that a peer that writes into the shared memory meanwhile changes nothing.
//
//     Submission s{};
//     s.op = uint16_t(Op::memcpy_h2d), s.mem = id, s.address = address, s.bytes = s.total = n;
//     if (const char* wrong = check(s)) return refuse(wrong);
#pragma once

#include <cstddef>
#include <cstdint>

namespace baton::cs3 {

// A minor version adds ops and capability bits; a major version changes layouts. Majors must be equal.
inline constexpr uint16_t kVersionMajor = 1, kVersionMinor = 2;
inline constexpr char kMagic[8] = {'B', 'A', 'T', 'O', 'N', 'W', 'L', 0};

inline constexpr uint32_t kSqEntries = 512;       // submission ring; a client has at most this many commands in flight
inline constexpr uint32_t kCqEntries = 1024;      // completion ring
inline constexpr uint32_t kTextBytes = 512;       // error text beside each completion: "what\nnext"
inline constexpr uint32_t kMaxPayload = 1u << 20; // of one entry in the arena or inline
inline constexpr uint32_t kSmallSlots = 64, kSmallBytes = 16u << 10; // the client's way to cut up the arena
inline constexpr uint32_t kLargeSlots = 16;                         // of kMaxPayload
inline constexpr uint64_t kArenaBytes = uint64_t(kSmallSlots) * kSmallBytes + uint64_t(kLargeSlots) * kMaxPayload;
inline constexpr uint32_t kMaxRegions = 16;   // host memory objects that one session has registered at a time
inline constexpr uint32_t kMaxBindings = 128; // of one launch
inline constexpr uint32_t kMaxArgs = 64;
inline constexpr uint32_t kMaxChannels = 16;  // SDK --channels: 1..16 (facts/cs3 1.3)
inline constexpr uint32_t kMaxSymbols = 64;   // of one session, ports included
inline constexpr uint32_t kSymbolName = 64;   // bytes, with the NUL
inline constexpr uint32_t kMaxBadRows = 64;   // that `info` can list

// What a side can do beyond the base protocol.
enum Capability : uint64_t {
  kCapShm = 1,        // carrier (a)
  kCapRegions = 2,    // host memory by descriptor
  kCapProgress = 4,   // launches report marks
  kCapRectangles = 8, // `symbol`, and memcpy over a rectangle of PEs (x, y, w, h, elements per PE); without it, w = h = 0 and `address` is linear
  kCapPorts = 16,     // `port`, `send`, `receive`
  kCapFaults = 32,    // `fault`: an emulator's fault plan, read and changed while it runs
  kCapSlots = 64,     // launches that leave the command stream (kInSlot): several sequences in flight, pipelines of stages
  kCapClock = 128,    // `clock`: of an emulator's timing model, read and changed while it runs
};

// ---- handshake -------------------------------------------------------------------------------------------------------

enum class CarrierKind : uint8_t { any = 0, tcp = 1, shm = 2, stage = 3 /* from another daemon: PeerFrames */ };

// 128 bytes, from the client, first on every connection.
struct Hello {
  char magic[8];
  uint16_t major, minor;
  uint32_t hello_bytes;  // sizeof, so that a later version may grow
  uint64_t capabilities;
  uint8_t boot_id[16];   // of the client's host; zero: unknown
  uint8_t carrier;       // CarrierKind that this connection will carry
  uint8_t wafer;         // of the daemon's: one connection, one wafer, one command stream
  uint8_t zero0[2];
  uint32_t pid;
  char program[64];      // of the client, for messages
  uint8_t key[16];       // carrier `stage`: of the session that its messages are for (peer_key)
};
static_assert(sizeof(Hello) == 128);

// 512 bytes, from the daemon. Fields up to `text` never move. On the unix socket it comes with three descriptors: the
// segment, the submission bell (to the daemon), the completion bell (to the client).
struct Welcome {
  char magic[8];
  uint16_t major, minor;
  int32_t code;           // baton_code; not 0: refused, and the connection is closed
  char text[256];         // why: "what\nnext"
  uint64_t capabilities;
  uint8_t boot_id[16];
  uint64_t instance;      // random, one for each start of the daemon
  uint64_t epoch;         // of the wafer
  uint32_t pid;
  uint8_t same_host;      // boot ids are equal: try carrier (a) at `unix_name`
  uint8_t emulated;
  uint8_t wafers;         // of this daemon; 0 counts as 1
  uint8_t zero0;
  char unix_name[100];    // abstract, without the leading NUL
  uint32_t segment_bytes; // unix socket only
  uint8_t zero[88];
};
static_assert(sizeof(Welcome) == 512);
static_assert(offsetof(Welcome, text) == 16 && offsetof(Welcome, capabilities) == 272);

// ---- commands --------------------------------------------------------------------------------------------------------

// Control ops are served at once, between two steps of whatever runs; stream ops form one ordered command stream per session.
enum class Op : uint16_t {
  // control
  info = 1,       // -> InfoReply
  telemetry,      // -> TelemetryReply
  get_id,         // payload: name (`bytes` of it; 0: all) -> handle = id, SymbolReply as far as there is room
  run,            // opens the command stream, once, after load
  stop,           // closes it for good; what is queued is cancelled
  reset,          // epoch + 1: every session's memory, programs and commands are gone
  alloc,          // bytes -> handle, address
  free,           // mem
  region_add,     // region: the descriptor with this number was passed on the unix socket before this entry
  region_drop,    // region
  load_begin,     // bytes of the program, arg0 = constants -> handle = program (not launchable yet)
  load_program,   // program, address = offset, payload: bytes of the serialized program
  load_constant,  // program, bytes, payload: name
  load_chunk,     // program, address = offset in the constant, payload
  load_finish,    // program -> launchable
  unload,         // program, finished or not
  cancel,         // arg0 = id of a stream command
  load,           // 1.1: once, before run. w, h: the rectangle of PEs that the session's symbols lie in; 0: all that are usable. Payload: an artifact's name, for a bridge
  symbol,         // 1.1: payload: name; x, y, w, h, elements_per_pe (32-bit words): memory on those PEs -> as get_id, until the session ends
  port,           // 1.1: payload: name; symbol, x, y: that PE's words; arg0 = 0: the host sends to it, 1: receives from it -> as get_id
  fault,          // 1.1: arg0 = 0: -> the fault plan as JSON; 1: payload: a new plan (none: no faults)
  peer_key,       // 1.1: -> 16 bytes: names this session to another one
  peer_open,      // 1.1: arg0 = number below kMaxStages; payload: key, "HOST:PORT": a session that this one's stages can send to
  clock,          // 1.2: arg0 = 0: -> value = Hz of the timing model's clock; else: the daemon's clock from here on
  // stream
  nop = 32,
  memcpy_h2d,     // mem, address, bytes <- payload or region
  memcpy_d2h,     // mem, address, bytes -> payload or region
  copy,           // mem, address, bytes <- src_mem, src_address
  fill,           // mem, address, bytes; arg0 = pattern, arg1 = pattern bytes (1, 2, 4)
  launch,         // program, payload: LaunchHead, LaunchBinding[], int64 args
  send,           // 1.1: symbol = port; bytes <- payload or region: an even number of 32-bit wavelets
  receive,        // 1.1: symbol = port; bytes -> payload or region
};
inline bool is_stream(Op op) { return uint16_t(op) >= uint16_t(Op::nop); }
// Host memory goes in or out: memcpy_*, send, receive; and which of the two.
inline bool is_transfer(Op op) { return op == Op::memcpy_h2d || op == Op::memcpy_d2h || op == Op::send || op == Op::receive; }
inline bool is_inward(Op op) { return op == Op::memcpy_h2d || op == Op::send; }
const char* op_name(uint16_t op);

enum class Where : uint8_t { none = 0, arena = 1 /* inline behind the entry on TCP */, region = 2 };
enum class Order : uint8_t { row_major = 0, column_major = 1 };

enum SubmissionFlags : uint16_t {
  kWantProgress = 1, // launch
  kMore = 2,         // memcpy, send, receive: a chunk of a longer one; cost is counted with the last, for `total` bytes
  kAlongRows = 4,    // memcpy_h2d of a symbol: one column of the rectangle travels (h x 1 x l), and each PE's share goes to all of its row
  kAlongColumns = 8, // one row travels (1 x w x l), and each share goes to all of its column
  kInSlot = 16,      // launch: its kernel unblocks the command stream at once and runs in `slot`; a slot runs its launches in order
};

struct Submission {
  uint64_t id;             // the client's, not 0, unique among what is in flight; the task of SdkRuntime
  uint16_t op;
  uint16_t flags;
  uint32_t tag;            // the caller's, for messages
  uint32_t mem;            // handle of alloc; launch of a stage: the peer that it sends to
  uint32_t program;        // handle of load_begin
  uint64_t address;        // in the linear space "sram", as given by alloc (plus an offset); of a symbol or port: the chunk's place in the host's tensor
  uint64_t bytes;
  uint64_t total;          // memcpy: of the whole copy
  uint8_t where;
  uint8_t element_bits;    // memcpy: 16 or 32; 0 counts as 32. One element a wavelet: 16 bits are zero-extended, so half of the wire is wasted
  uint8_t order;
  uint8_t channels;        // memcpy: 0: as the daemon likes
  uint32_t region;
  uint64_t payload_offset; // in the arena or region
  uint32_t payload_bytes;  // in the arena or inline; d2h and control replies: room for the answer
  uint16_t symbol;         // memcpy, send, receive: from get_id; 0 and 1 ("sram"): the linear space
  uint16_t zero0;
  uint16_t x, y, w, h;     // memcpy of a symbol: PEs, from the corner of the program's rectangle
  uint32_t elements_per_pe;
  uint32_t src_mem;
  uint64_t src_address;
  uint64_t arg0, arg1;
  uint16_t row_stride, col_stride; // memcpy_h2d of a symbol: of a row of the rectangle every so many PEs receive, and every so many of its rows do; 0 counts as 1
  uint32_t zero1;
  uint64_t zero;
};
static_assert(sizeof(Submission) == 128);
// Bytes behind the entry on TCP: what goes out with a command, not the room for its answer.
uint32_t inline_bytes(const Submission&);

enum class Kind : uint8_t {
  done = 1,     // the command ended: code, value, cost_ns
  progress = 2, // mark `value` of a launch was reached, cost_ns after its start
  lost = 3,     // id 0: the wafer was reset by somebody else; `epoch` is the new one
};

struct Completion {
  uint64_t id;
  uint8_t kind;
  uint8_t zero0;
  uint16_t text_bytes;    // of error text: in the slot's text on shm, inline on TCP
  int32_t code;           // baton_code
  uint64_t value;         // progress: k, from 1
  uint64_t cost_ns;       // modelled
  uint64_t wall_ns;       // time the daemon spent on the command
  uint32_t payload_bytes; // of the answer: at the submission's payload_offset on shm, inline on TCP
  uint32_t handle;
  uint64_t address;
  uint64_t epoch;
};
static_assert(sizeof(Completion) == 64);

// Structure alone (known op, sizes, enums, reserved bytes zero); what handles mean is for the daemon's session. NULL: fine.
const char* check(const Submission&);
const char* check(const Completion&);
const char* check(const Hello&);   // magic and size; the version is compared by the caller, which names both
const char* check(const Welcome&);
struct PeerFrame;
const char* check(const PeerFrame&);

// ---- payloads --------------------------------------------------------------------------------------------------------

// A launch with kInSlot: arg0 = its modelled start (ns) on the client's clock, from which its costs count; arg1 = its number in the slot, rising.
// With `stages` over 1 it is one stage of a pipeline: the same slot and number on each wafer. What a stage makes goes to the peer with
// number `mem`; the last stage sends its token back to the first.
struct LaunchHead {
  uint16_t bindings, args;
  uint16_t slot;         // below kMaxSlots
  uint8_t stage, stages; // 0, 0: no pipeline
};
inline constexpr uint32_t kMaxSlots = 256, kMaxStages = 16;
enum class Role : uint32_t {
  memory = 0, // of the session
  input = 1,  // what the stage before made; memory of the wafer's own, mem = address = 0
  output = 2, // what the next stage gets; the same
  tokens = 3, // the token buffer: in the first stage memory of the session, in the last the wafer's own
};
struct LaunchBinding {
  char name[64]; // NUL-terminated
  uint32_t mem;
  uint32_t role;
  uint64_t address, bytes;
};
// Between two daemons, behind a Hello whose carrier is `stage`: then `bytes` of payload.
struct PeerFrame {
  uint64_t number, time_ns; // of the launch; when it is there, modelled
  uint32_t iteration, bytes;
  uint16_t slot;
  uint8_t kind;             // StageSays
  uint8_t zero[5];
};
static_assert(sizeof(PeerFrame) == 32);
enum class StageSays : uint8_t {
  data = 1, // what it made in this iteration, or the token
  last,     // the token after which the loop ends
  end,      // nothing more comes: the loop has ended before
  failed,   // nothing more comes: it failed
};
inline constexpr uint32_t kMaxStageBytes = 256u << 20; // of one message
static_assert(sizeof(LaunchHead) == 8 && sizeof(LaunchBinding) == 88);
static_assert(sizeof(LaunchHead) + kMaxBindings * sizeof(LaunchBinding) + kMaxArgs * 8 <= kSmallBytes);

// Answers may grow at the end: `bytes` says how long the daemon's is, and what is beyond reads as zero.
struct InfoReply {
  uint32_t bytes; // sizeof
  uint32_t emulated, lanes, progress, modelled, programs;
  uint64_t epoch, sram_bytes, sram_used;
  uint16_t fabric_w, fabric_h; // PEs that programs may use; 0: not modelled
  uint32_t sessions;
  char model[64], firmware[96], timing[96];
  // 1.1
  uint32_t lost;                  // 1: nothing runs until a reset
  uint16_t channels;              // that work
  uint16_t bad_row_count;         // rows of PEs that placement must route around
  uint16_t bad_rows[kMaxBadRows]; // ascending
};
struct TelemetryReply {
  uint32_t bytes; // sizeof
  uint32_t zero;
  uint64_t ops_done, ops_failed, launches, bytes_in, bytes_out, busy_ns, modelled_ns;
  // 1.1. The wire's side of memcpy, send and receive: whole transfers (chunks are parts of one), wavelets of 32 bits, and 4 bytes each.
  uint64_t transactions, wavelets_in, wavelets_out, wire_bytes_in, wire_bytes_out;
  uint64_t channel_bytes[kMaxChannels]; // modelled: a transfer is spread evenly over the channels that it may use
  // 1.2, modelled. A transfer ends with its slowest channel.
  uint64_t channel_ns[kMaxChannels];    // how long each carried its bytes
  uint64_t channel_rate[kMaxChannels];  // bytes/s of the last transfer that each carried a part of; 0: none since the fault plan was written
  uint64_t waited_ns;                   // how much longer transfers took than if all of their channels had been as fast as the fastest
  uint32_t dead_channels;               // a bit each
  uint32_t zero1;
};

enum class SymbolKind : uint8_t { linear = 1, array = 2, input_port = 3, output_port = 4 };
// Of get_id, symbol and port.
struct SymbolReply {
  uint32_t bytes; // sizeof
  uint16_t id;
  uint8_t kind;
  uint8_t zero;
  uint16_t x, y, w, h;      // PEs; a port has one
  uint32_t elements_per_pe; // 32-bit words
  uint32_t mem;             // its memory, which launches can bind; PE (i, j) has its words at base + ((j - y) * w + (i - x)) * elements_per_pe * 4
  uint64_t base;            // in the linear space
  char name[kSymbolName];
};
static_assert(sizeof(SymbolReply) == 96);

}  // namespace baton::cs3
