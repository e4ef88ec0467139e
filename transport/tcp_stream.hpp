// tcp_stream.hpp (internal): a layer of small segments over a TCP socket of our own, beside libfabric's: from where they lie, to where they go.
//
// libfabric's tcp takes four segments a write, so stream.hpp packs small ones into pieces and unpacks them: a pass more on each side, and one for a
// checksum. A socket takes hundreds of segments in one call, and TCP keeps order, so nothing is packed, nothing is staged and nothing is returned: each chunk is
// a Note, which says which bytes it is, and its bytes; the sink has the plan, and has the kernel put them where they go. For one NIC, unsealed, without conversion;
// whatever is not, or is sent before the socket is there (a firewall may not let it be), goes by stream.hpp.
//
// A chunk that was begun is finished, with zeros if its request has failed: the sink drops what it does not expect any more.
//
// Owner    a sender and a landing, one each.   Threads  as the Instance; the far side is not trusted: it has a token out of the session, and its Notes are checked.
// Cost     one sendmsg and two recvmsg for each 256 KiB or so.   Errors  PEER_LOST (a connection that broke within a chunk), CORRUPT.
#pragma once

#include "transport/socket.hpp"
#include "transport/stream.hpp"

#include <array>

namespace baton::transport {

class TcpStreamSender {
 public:
  // Starts to connect to what the landing offered. Averages of segments below `small_segment` are its own.
  Status start(const nlohmann::json& offer, uint64_t small_segment);
  // Whether this part of a batch goes this way: asked at its beginning, the answer is kept.
  bool takes(Batch& b);
  uint64_t step(Batch&, uint64_t budget); // as Sender::step
  void stop(Batch&);                      // of a chunk that was begun zeros follow
  void flush();                           // those

 private:
  enum class State : uint8_t { connecting, token, ready, broken };
  bool connected();
  bool begin(Batch&);
  ssize_t send_some();
  void fail(Batch&, int err);

  Fd fd_;
  State state_ = State::connecting;
  uint64_t small_ = 0;
  std::array<uint8_t, 32> token_{};
  size_t head_ = 0;       // bytes of the token, or of the note, that are sent
  Note note_{};           // of the chunk that was begun
  uint64_t left_ = 0;     // of its bytes
  bool open_ = false;
  Batch* batch_ = nullptr; // whose it is; nullptr: nobody's any more
};

class TcpStreamLanding final : public Watcher {
 public:
  TcpStreamLanding(Endpoint::Impl& ep, StreamFlows& f) : ep_(ep), flows_(f) {}
  ~TcpStreamLanding() override;
  Status listen(const std::string& host); // numeric
  nlohmann::json offer() const;
  void ready(uint32_t) override {}        // poll() reads
  bool poll(uint32_t& worked);            // false: broken()
  const char* broken() const { return broken_; }
  std::optional<Error> cause() const { return cause_; }

 private:
  struct Peer {
    Fd fd;
    uint64_t tag = 0;
    bool admitted = false;
    size_t head = 0; // bytes of the token, or of the note, that came
    std::array<uint8_t, 32> token{};
    Note note{};     // of what is missing
    uint64_t left = 0;
  };
  enum class Read : uint8_t { nothing, some, gone, broken };
  void accept_all();
  void drop(Peer&);
  Read read(Peer&, uint64_t& total);
  Read take_head(Peer&, size_t bytes);

  Endpoint::Impl& ep_;
  StreamFlows& flows_;
  Fd listen_;
  uint64_t tag_ = 0;
  std::array<uint8_t, 32> token_{};
  std::vector<Peer> peers_;
  std::vector<uint8_t> sink_; // what nobody expects any more
  const char* broken_ = nullptr;
  std::optional<Error> cause_;
};

}  // namespace baton::transport
