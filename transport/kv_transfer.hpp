// kv_transfer.hpp (internal): what stands behind KvTransfer: opened by kv_opening.cc, moved and ended by kv_transfer.cc.
//
// begin() asks the sink; opened() takes its answer, connects the fabric and makes the moves, when it is called, not within a poll. From then on each (source,
// layer) is a Step, one op of a queue of its own.
//
// Owner    its KvTransfer.   Threads  as the Instance.   Cost  see kv_link.hpp.   Errors  the first failure is kept, and told to the sink once nothing is in flight.
#pragma once

#include "transport/fabric.hpp"
#include "transport/kv_link.hpp"
#include "transport/kv_sum.hpp"
#include "transport/kv_wire.hpp"

namespace baton::transport {

struct KvTransfer::Impl final : Service {
  struct Step { // one (source, layer)
    enum class State : uint8_t { idle, queued, done };
    State state = State::idle;
    void* cookie = nullptr;
    uint64_t start_ns = 0; // modelled
    size_t part = 0;       // of the source's moves
    bool moved = false;
    Batch batch;
  };

  Impl(const Instance& in, Session::Impl& s) : instance(in.get()), session(&s), ep(s.ep), host(baton_queue_host(in.get())) {}
  ~Impl() override;

  Status begin(const std::string& ticket, std::vector<KvSource>, uint64_t tokens, const TransferOptions&, uint64_t deadline_ns);
  std::optional<Status> opened();
  void fail(Error);
  void tell_abort();
  Status seal(const Message&, uint64_t deadline_ns);
  size_t left() const { return left_; }
  void look() { // what each rail does, while it is under way
    if (sender_ && !told) sender_->rails(generation_, stats.rails);
  }

  bool on_message(Session::Impl&, Message&) override;
  void on_lost(Session::Impl&, const Error&) override;
  uint32_t on_poll(uint64_t now) override;

  int32_t submit(const baton_driver_op*, uint32_t count, uint32_t* taken);
  uint32_t poll();

 private:
  Status check(const std::vector<KvSource>&, uint64_t tokens);
  Status ask(const std::string& ticket);
  Status accept();
  bool ask_again(); // for another fabric than the one that did not connect; false: there is none
  Status attach(const std::string& fabric, const nlohmann::json& offer);
  Status settle();
  Status make_descriptors();
  Status make_queue();
  bool advance(Step&, size_t index, uint64_t& bytes); // true: settled, remove it
  void finish(Step&, size_t index, const Error*);
  bool next_part(Step&, size_t index);
  bool note(size_t index); // of the step, or in bulk of all of its source's; false: try again
  std::pair<size_t, size_t> together(size_t index) const { // the steps that go out with it
    const size_t first = source_of(index) * layers;
    return stats.bulk ? std::pair(first, first + layers) : std::pair(index, index + 1);
  }
  template <class F>
  bool all_together(size_t index, F f) const {
    const auto [first, end] = together(index);
    return std::all_of(steps_.begin() + ptrdiff_t(first), steps_.begin() + ptrdiff_t(end), f);
  }
  uint32_t in_flight() const;
  void arm();
  size_t source_of(size_t index) const { return index / layers; }
  uint32_t layer_of(size_t index) const { return first_layer_ + uint32_t(index % layers); } // of the model
  bool sends(size_t index) const;

 public:
  baton_instance* instance;
  Session::Impl* session; // nullptr: lost or closed
  Endpoint::Impl* ep;
  const baton_driver_host* host;
  Queue queue;
  Stats stats;
  std::optional<Error> failure;
  bool sealed = false, told = false; // told: the sink knows that this ended, or cannot be told
  size_t sources = 0, layers = 0;

 private:
  uint64_t id_ = random_u64(), generation_ = 0;
  std::vector<LayerSum> sums_; // by step, where checksums are asked for
  uint32_t slot_ = 0, first_layer_ = 0; // that the sink holds
  bool open_sent_ = false, has_timer_ = false, has_more_ = false;
  LinkModel model_;
  std::vector<std::string> fabrics_; // asked for, best first
  std::vector<KvLayout> layouts_;
  std::vector<SourceMemory> memory_;
  std::vector<KvTagged> tagged_; // the sources' blocks
  std::vector<Fd> fds_; // of memory_, while the sender looks at it
  Shares shares_;
  std::vector<std::vector<KvMove>> moves_; // by source
  std::vector<std::vector<Recoder>> recoders_; // of the moves, where plans convert
  std::vector<Step> steps_;
  std::vector<uint32_t> pending_;
  std::vector<uint8_t> noted_; // by step; in bulk by the first of its source
  uint64_t bulk_end_ns_ = 0;   // modelled
  size_t left_ = 0; // steps not done
  std::optional<Message> answer_;
  struct Opening { // from begin() until it is open
    std::vector<KvSource> all;
    uint64_t tokens;
    TransferOptions options;
    uint64_t deadline_ns;
    uint64_t held = 0;      // from here on as the sink answered
    KvLayout sink{};
    std::vector<int32_t> blocks{};
  };
  std::optional<Opening> opening_;
  Sender* sender_ = nullptr;
  baton_driver table_{};
  Fd epoll_, more_, timer_;
};

}  // namespace baton::transport
