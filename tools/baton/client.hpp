// client.hpp: asks a prefill service and a decode service, here or elsewhere, for the continuation of a prompt.
//
// Owner    the Client owns its endpoint and the two sessions; requests follow one another on them.
// Threads  as the Instance.
// Cost     connect: two handshakes. A request: three messages before the compute is on its way.
// Errors   the first cause, with the hop that it took: "decode baton://a:1 > cs3://b:2"; DEADLINE; CANCELLED when `stop` is set.
//
//     BATON_ASSIGN(auto c, Client::connect(pump, {.key = key, .prefill = {"127.0.0.1:7000"}, .decode = {"127.0.0.1:7001"}, .model = id}));
//     BATON_ASSIGN(Answer a, c->generate(ids, params, [](const Token& t) { ... }));
#pragma once

#include "tools/baton/answer.hpp"
#include "tools/baton/pump.hpp"

#include <functional>
#include <memory>

namespace baton::runtime {

struct ClientOptions {
  transport::Key key{};
  struct Side {
    std::string address;                   // HOST:PORT
    std::string name;                      // in errors: "prefill baton://HOST:PORT" or "prefill emu+neuron://0"
    std::vector<std::string> others = {};  // addresses of workers to try, one after another, where that one is not to be had
  } prefill, decode;
  std::string model;                       // identity
  std::string fabric;                      // "": the prefill side's choice
  uint32_t vocab = 0;
  uint64_t timeout_ns = 0;                 // for all of it, from when this side's endpoint is open; 0: none
  uint64_t lease_ns = kLeaseNs;
  const volatile int* stop = nullptr;      // set by a signal handler
  std::string identity, known_peers;       // with the key, or in its place
};

class Client {
 public:
  static Result<std::unique_ptr<Client>> connect(Pump&, ClientOptions);
  Result<Answer> generate(std::span<const int32_t> ids, const Params&, const std::function<void(const Token&)>& on_token);
  std::vector<std::string> lost() const; // addresses of the sides whose session is
  // Reaches others in place of those, after a request has failed by it.
  Status replace_lost(const ClientOptions::Side& prefill, const ClientOptions::Side& decode);
  const ClientOptions::Side& prefill() const { return options_.prefill; } // that was reached
  const ClientOptions::Side& decode() const { return options_.decode; }

 private:
  struct Side {
    std::string name;
    std::unique_ptr<transport::Session> session;
    Hello hello;
    bool same_host = false;
  };
  Client(Pump& p, ClientOptions o) : pump_(p), options_(std::move(o)) {}
  Result<Side> reach(ClientOptions::Side&, const char* role); // the first that is to be had; `others` are those behind it
  Result<Side> reach_one(const ClientOptions::Side&, const char* role);
  Status check_time() const;
  Status take(Answer&, const Params&);                                 // every message that is there
  Status prefill_message(const transport::Message&, Answer&);
  Status decode_message(const transport::Message&, Answer&, const Params&);
  Status more_tokens(const transport::Message&, Answer&);
  void cancel();
  Pump& pump_;
  ClientOptions options_;
  std::optional<transport::Endpoint> endpoint_;
  Side prefill_, decode_;
  uint64_t id_ = 0, clock_ns_ = 0, deadline_ns_ = BATON_NO_DEADLINE;
  bool reserved_ = false, prefilled_ = false, decoded_ = false; // what the two sides have said of this request
  bool awaits_decode_ = false; // the first token is the decode side's
  std::vector<Token> held_; // tokens of the decode side that came before the first
  std::vector<float> held_logits_;
};

}  // namespace baton::runtime
