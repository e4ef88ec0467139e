// wire.hpp: the messages between a client, a prefill service and a decode service, over transport sessions.
//
//     service -> client   hello      {role, leg, model, clock}                  once, when the session is accepted
//     client  -> decode   reserve    {id, model, prompt, max_tokens, sampling, ignore_eos, logits}
//     decode  -> client   reserved   {id, ticket}
//     client  -> prefill  prefill    {id, model, sampling, logits, start, then} bytes: ids, i32 little-endian
//     client  -> prefill  handover   {id, ticket, decode, fabric}              the compute has begun by then
//     prefill -> client   first      {id, token, wall, modelled}               bytes: logits, f32
//     prefill -> client   prefilled  {id, leg, transfer, clock}
//     decode  -> client   tokens     {id, tokens, wall, modelled}              bytes: logits, f32, a row a token
//     decode  -> client   decoded    {id, finish, full, leg, clock}
//     any     -> client   failed     {id, error};     client -> any   cancel {id}
//
// Owner    plain data.   Threads  any.
// Errors   CORRUPT: a field is missing or of the wrong type, named with its message. Peers are authenticated, not trusted to be right.
//
//     BATON_ASSIGN(Reserve r, Reserve::from(message));
#pragma once

#include "tools/baton/answer.hpp"
#include "transport/session.hpp"

#include <optional>

namespace baton::runtime {

struct Hello {
  std::string role, model;
  Leg leg;
  uint64_t clock_ns = 0;
  transport::Message message() const;
  static Result<Hello> from(const transport::Message&);
};

struct Reserve {
  uint64_t id = 0;
  std::string model;
  uint32_t prompt_tokens = 0, max_tokens = 0;
  Sampling sampling;
  bool ignore_eos = false, logits = false;
  transport::Message message() const;
  static Result<Reserve> from(const transport::Message&);
};

struct Prefill {
  uint64_t id = 0;
  std::string model;
  std::vector<int32_t> ids;
  Sampling sampling;
  bool logits = false;
  uint64_t start_ns = 0; // modelled
  int32_t then = -1;     // the token that decoding begins with, in place of the one that prefill makes, which is not told; -1: none
  transport::Message message() const;
  static Result<Prefill> from(const transport::Message&);
};

struct Handover {
  uint64_t id = 0;
  std::string ticket, decode;
  std::string fabric; // "": the prefill side's choice
  transport::Message message() const;
  static Result<Handover> from(const transport::Message&);
};

nlohmann::json to_json(const Error&);
Error error_from_json(const nlohmann::json&);
nlohmann::json to_json(const Transfer&);
Transfer transfer_from_json(const nlohmann::json&);
transport::Message failed_message(uint64_t id, const Error&);

// Fields of a message, checked.
Result<uint64_t> u64_field(const transport::Message&, const char* key);
Result<std::string> text_field(const transport::Message&, const char* key);
Result<std::vector<uint64_t>> list_field(const transport::Message&, const char* key);
Result<std::vector<float>> floats_of(const transport::Message&);

// The cause with a side of the request in front of the hops that it took: "prefill baton://a:1 > decode cs3://b:2". The side's own name for
// itself (its endpoint's, "prefill neuron://0") is replaced; a cause from one of the client's own sessions names the side already.
Error with_hop(const Error&, const std::string& side);

}  // namespace baton::runtime
