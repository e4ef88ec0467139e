#include "tools/baton/client.hpp"
#include "tools/baton/commands.hpp"
#include "tools/baton/decode_service.hpp"
#include "tools/baton/exit_code.hpp"
#include "tools/baton/npy.hpp"
#include "tools/baton/one_device.hpp"
#include "tools/baton/options.hpp"
#include "tools/baton/prefill_service.hpp"
#include "tools/baton/report.hpp"
#include "tools/baton/signals.hpp"
#include "tools/baton/stats.hpp"
#include "tools/baton/workers.hpp"
#include "tools/model/fail.hpp"
#include "tools/model/json_file.hpp"

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <iostream>

namespace baton::runtime {

namespace {

constexpr uint64_t kMaxPrompt = 64ull << 20; // bytes of a prompt file or stdin
constexpr std::string_view kScheme = "baton://";
constexpr uint64_t kWorkersMs = 10'000; // for the source of workers

struct Flags {
  EngineFlags engine;
  ProofFlags proof;
  WorkersFlags workers;
  bool choose_prefill = false, choose_decode = false; // among the workers
  std::string prompt, file, prefill = "emu+neuron://0", decode = "emu+cs3://0", device, fabric = "auto", listen = "127.0.0.1:0";
  std::string check_device, logits, output = "text", trace, decode_order, first_token = "prefill";
  uint32_t max_tokens = 128, decode_block_tokens = 0;
  double temperature = 0, top_p = 1, timeout = 0;
  uint64_t lease_ms = kLeaseNs / 1'000'000;
  uint64_t seed = 0;
  bool ignore_eos = false, stats = false, check = false, echo = false;
};

bool remote(const std::string& uri) { return uri.starts_with(kScheme); }

Result<std::string> read_stdin() {
  std::string text;
  char part[65536];
  for (;;) {
    ssize_t n = ::read(0, part, sizeof part);
    if (n < 0 && errno == EINTR && !Signals::stop) continue;
    if (n < 0) return fail(BATON_INVALID_ARGUMENT, "give the prompt as an argument or with --file", "standard input cannot be read: {}", std::strerror(errno));
    if (n == 0) return text;
    text.append(part, size_t(n));
    if (text.size() > kMaxPrompt) return fail(BATON_INVALID_ARGUMENT, "shorten the prompt", "standard input has more than {} bytes", kMaxPrompt);
  }
}

// One run of the command. Members in the order in which they stand on one another.
class Generate {
 public:
  explicit Generate(const Flags& f) : f_(f) {}
  Status run();

 private:
  Result<std::string> prompt() const;
  Status prepare();
  Status open_device();
  Status open_handover();
  Status choose();
  void note_chosen();
  bool another(const Error&); // workers in place of those that are gone
  Result<Answer> answer();
  Result<Check> compare(const Answer&);
  Status write(const Answer&, const std::optional<Check>&);
  void say(const Token&);
  uint64_t deadline() const { return f_.timeout > 0 ? now_ns() + uint64_t(f_.timeout * 1e9) : BATON_NO_DEADLINE; }
  bool text_output() const { return f_.output == "text"; }

  const Flags& f_;
  std::string prefill_uri_ = f_.prefill, decode_uri_ = f_.decode;
  EngineOptions options_;
  Params params_;
  std::optional<model::Model> model_;
  std::vector<int32_t> ids_;
  std::string prompt_, text_;
  bool said_ = false; // a token
  std::optional<model::TextStream> stream_;
  Instance instance_;
  std::optional<SpanLog> log_;
  std::optional<Shelf> shelf_;
  std::optional<Pump> pump_;
  std::unique_ptr<OneDevice> one_;
  std::unique_ptr<DecodeService> decode_;
  std::unique_ptr<PrefillService> prefill_;
  std::optional<transport::Discovery> workers_;
  std::set<std::string> gone_; // workers that were lost in the middle of the request
  ClientOptions::Side prefill_side_, decode_side_;
  std::unique_ptr<Client> client_;
};

Result<std::string> Generate::prompt() const {
  if (!f_.file.empty() && !f_.prompt.empty()) return fail(BATON_INVALID_ARGUMENT, "give one of them", "both a prompt and --file are given");
  if (!f_.file.empty()) return model::read_text(f_.file, kMaxPrompt);
  if (f_.prompt == "-") return read_stdin();
  if (f_.prompt.empty()) return fail(BATON_INVALID_ARGUMENT, "baton generate \"Once upon a time\", or --file FILE, or - for standard input", "no prompt");
  return f_.prompt;
}

Status Generate::prepare() {
  BATON_ASSIGN(prompt_, prompt());
  BATON_ASSIGN(options_, f_.engine.options());
  params_ = {f_.max_tokens, {f_.temperature, f_.top_p, f_.seed}, f_.ignore_eos, f_.check || !f_.logits.empty(), f_.first_token == "decode"};
  BATON_ASSIGN(model::Model m, model::Model::load(f_.engine.model_dir.empty() ? default_model() : f_.engine.model_dir));
  model_.emplace(std::move(m));
  BATON_ASSIGN(ids_, model_->tokenizer->encode(prompt_, true));
  BATON_ASSIGN(uint32_t context, context_of(model_->config, options_));
  if (ids_.empty()) return fail(BATON_INVALID_ARGUMENT, "give some text", "the prompt has no tokens, and this tokenizer adds none");
  if (ids_.size() > context)
    return fail(BATON_INVALID_ARGUMENT, context < model_->config.max_context ? "raise --context, or shorten the prompt" : "shorten the prompt",
                "the prompt has {} tokens, the context is {}", ids_.size(), context);
  stream_.emplace(*model_->tokenizer);
  BATON_ASSIGN(instance_, Instance::create());
  log_.emplace(instance_);
  shelf_.emplace(instance_);
  pump_.emplace(instance_);
  return {};
}

Status Generate::open_device() {
  BATON_ASSIGN(one_, OneDevice::open(*shelf_, *log_, f_.device, *model_, options_));
  return {};
}

// Workers for the sides that are not given.
Status Generate::choose() {
  if (!workers_) return {};
  const std::string model = model_identity(*model_, options_.precision);
  for (auto [wanted, role, uri, side] : {std::tuple{f_.choose_decode, "decode", &decode_uri_, &decode_side_}, {f_.choose_prefill, "prefill", &prefill_uri_, &prefill_side_}}) {
    if (!wanted) continue;
    BATON_ASSIGN(auto addresses, ready_workers(*workers_, role, model, gone_));
    *uri = std::string(kScheme) + addresses.front();
    *side = {addresses.front(), std::string(role) + " " + *uri, {addresses.begin() + 1, addresses.end()}};
  }
  return {};
}

void Generate::note_chosen() {
  if (f_.choose_prefill) prefill_uri_ = std::string(kScheme) + client_->prefill().address;
  if (f_.choose_decode) decode_uri_ = std::string(kScheme) + client_->decode().address;
}

bool Generate::another(const Error& why) {
  if (!workers_ || why.code != BATON_PEER_LOST || Signals::stop) return false;
  const auto lost = client_->lost();
  gone_.insert(lost.begin(), lost.end());
  if (lost.empty() || !choose().ok() || !client_->replace_lost(prefill_side_, decode_side_).ok()) return false;
  note_chosen();
  return true;
}

Status Generate::open_handover() {
  if (!f_.workers.from.source.empty()) {
    BATON_ASSIGN(transport::Discovery d, read_workers(instance_, f_.workers.from, std::min(deadline(), deadline_in_ms(kWorkersMs))));
    workers_.emplace(std::move(d));
  }
  BATON_TRY(choose());
  bool any_remote = remote(prefill_uri_) || remote(decode_uri_);
  ClientOptions o;
  if (any_remote && !f_.proof.any())
    return fail(BATON_INVALID_ARGUMENT, "give the worker's --key-file ('baton keygen FILE' makes one), or --identity and --known-peers",
                "{} is a worker, and there is no --key-file or --identity", remote(decode_uri_) ? decode_uri_ : prefill_uri_);
  if (!f_.proof.any()) o.key = transport::random_key();
  else {
    BATON_ASSIGN(Proof proof, f_.proof.read());
    o.key = proof.key;
    o.identity = proof.identity;
    o.known_peers = proof.known_peers;
  }
  o.lease_ns = f_.lease_ms * 1'000'000;
  ServiceOptions s{f_.listen, o.key, f_.fabric, o.lease_ns, options_, {}, o.identity, o.known_peers, f_.proof.seal, f_.proof.rails};
  if (!f_.choose_prefill) prefill_side_ = {remote(prefill_uri_) ? prefill_uri_.substr(kScheme.size()) : "", "prefill " + prefill_uri_};
  if (!f_.choose_decode) decode_side_ = {remote(decode_uri_) ? decode_uri_.substr(kScheme.size()) : "", "decode " + decode_uri_};
  if (!remote(prefill_uri_)) {
    BATON_ASSIGN(prefill_, PrefillService::open(*shelf_, *log_, prefill_uri_, *model_, s));
    prefill_side_.address = prefill_->address();
    pump_->add(*prefill_);
  }
  if (!remote(decode_uri_)) {
    if (f_.decode_block_tokens) s.engine.block_tokens = f_.decode_block_tokens;
    if (!f_.decode_order.empty()) { BATON_ASSIGN(s.engine.order, transport::parse_order(f_.decode_order)); }
    BATON_ASSIGN(decode_, DecodeService::open(*shelf_, *log_, decode_uri_, *model_, s));
    decode_side_.address = decode_->address();
    pump_->add(*decode_);
  }
  o.model = model_identity(*model_, options_.precision);
  o.vocab = model_->config.vocab;
  o.fabric = f_.fabric == "auto" ? "" : f_.fabric;
  o.timeout_ns = uint64_t(f_.timeout * 1e9);
  o.stop = &Signals::stop;
  o.prefill = prefill_side_;
  o.decode = decode_side_;
  BATON_ASSIGN(client_, Client::connect(*pump_, std::move(o)));
  note_chosen();
  return {};
}

void Generate::say(const Token& t) {
  said_ = true;
  std::string piece = stream_->push(t.id);
  text_ += piece;
  if (!text_output()) return;
  std::fwrite(piece.data(), 1, piece.size(), stdout);
  if (std::fflush(stdout) != 0) Signals::stop = SIGPIPE; // the reader went
}

Result<Answer> Generate::answer() {
  auto on_token = [this](const Token& t) { say(t); };
  if (f_.echo && text_output()) std::fwrite(prompt_.data(), 1, prompt_.size(), stdout);
  Result<Answer> a = one_ ? one_->generate(ids_, params_, on_token, deadline(), &Signals::stop) : client_->generate(ids_, params_, on_token);
  while (!a.ok() && !said_ && another(a.error())) a = client_->generate(ids_, params_, on_token);
  std::string rest = stream_->flush();
  text_ += rest;
  if (text_output() && (a.ok() || !text_.empty())) {
    std::fwrite(rest.data(), 1, rest.size(), stdout);
    std::fputs("\n", stdout);
    std::fflush(stdout);
  }
  return a;
}

// The same request on one device alone.
Result<Check> Generate::compare(const Answer& a) {
  Check c;
  c.device = f_.check_device.empty() ? (!remote(prefill_uri_) ? prefill_uri_ : !remote(decode_uri_) ? decode_uri_ : "host://") : f_.check_device;
  BATON_ASSIGN(auto one, OneDevice::open(*shelf_, *log_, c.device, *model_, options_));
  BATON_ASSIGN(Answer b, one->generate(ids_, params_, {}, deadline(), &Signals::stop));
  c.steps = uint32_t(b.tokens.size());
  c.same_tokens = std::equal(a.tokens.begin(), a.tokens.end(), b.tokens.begin(), b.tokens.end(), [](auto& x, auto& y) { return x.id == y.id; });
  c.same_logits = a.logits.size() == b.logits.size() && std::memcmp(a.logits.data(), b.logits.data(), a.logits.size() * sizeof(float)) == 0;
  c.ttft_ms = stats_of(b).wall.ttft_ms;
  return c;
}

Status Generate::write(const Answer& a, const std::optional<Check>& check) {
  if (!text_output()) {
    auto j = answer_json(a, model_->title(), text_, check);
    std::printf("%s\n", j.dump(2, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
  }
  if (text_output() && (f_.stats || check)) std::fputs("\n", stdout);
  if (text_output() && f_.stats) std::fputs(stats_text(a).c_str(), stdout);
  if (text_output() && check) std::printf("%s\n", check->text().c_str());
  std::fflush(stdout);
  if (!f_.logits.empty()) BATON_TRY(write_npy(f_.logits, a.logits, a.vocab));
  if (!f_.trace.empty()) BATON_TRY(write_file(f_.trace, chrome_trace(a)));
  return {};
}

Status Generate::run() {
  BATON_TRY(prepare());
  BATON_TRY(f_.device.empty() ? open_handover() : open_device());
  BATON_ASSIGN(Answer a, answer());
  std::optional<Check> check;
  if (f_.check) { BATON_ASSIGN(check, compare(a)); }
  BATON_TRY(write(a, check));
  if (check && !(check->same_tokens && check->same_logits))
    return fail(BATON_FAILED, "report this with the command line", "the hand-over changed the answer: {}", check->text());
  return {};
}

}  // namespace

Run add_generate(CLI::App& app) {
  auto f = std::make_shared<Flags>();
  CLI::App* c = app.add_subcommand("generate", "Continue a prompt: prefill on one device, hand the KV-cache over, decode on another");
  c->add_option("prompt", f->prompt, "the text to continue; - reads standard input");
  c->add_option("--file", f->file, "read the prompt from a file");
  c->add_option("--max-tokens", f->max_tokens, "tokens to generate")->check(CLI::Range(1, 1 << 20))->capture_default_str();
  auto* prefill = c->add_option("--prefill", f->prefill, "device, or baton://HOST:PORT of a prefill worker")->capture_default_str();
  auto* decode = c->add_option("--decode", f->decode, "device, or baton://HOST:PORT of a decode worker")->capture_default_str();
  auto* device = c->add_option("--device", f->device, "do all on this one device, without a hand-over");
  c->add_option("--fabric", f->fabric, "mapped, shm, tcp, verbs, ofi-verbs, efa or auto")->check(CLI::IsMember({"mapped", "shm", "tcp", "verbs", "ofi-verbs", "efa", "auto"}))->capture_default_str();
  auto* workers = f->workers.add(*c)->excludes(device);
  f->engine.add(*c);
  c->add_option("--decode-block-tokens", f->decode_block_tokens, "tokens of a KV block on the decode side (default: --block-tokens)")->check(CLI::Range(1, 4096));
  c->add_option("--decode-kv-order", f->decode_order, "KV order on the decode side (default: --kv-order)")->check(CLI::IsMember({"token_major", "head_major", "block_major"}));
  c->add_option("--temperature", f->temperature, "0: greedy")->check(CLI::Range(0.0, 100.0));
  c->add_option("--top-p", f->top_p, "nucleus, over 0 up to 1")->check(CLI::Range(1e-9, 1.0));
  c->add_option("--seed", f->seed, "of the random numbers");
  c->add_option("--first-token", f->first_token, "who makes it: prefill, or decode of the prompt's last token, whose KV does not travel then")->check(CLI::IsMember({"prefill", "decode"}));
  c->add_flag("--ignore-eos", f->ignore_eos, "go on after a stop token");
  c->add_flag("--echo", f->echo, "print the prompt before its continuation");
  c->add_flag("--stats", f->stats, "print figures after the text");
  c->add_flag("--check", f->check, "also run on one device alone and compare tokens and logits");
  c->add_option("--check-device", f->check_device, "that device (default: the prefill device)");
  c->add_option("--logits", f->logits, "write logits, float32 [tokens, vocabulary], as .npy");
  c->add_option("--trace", f->trace, "write a Chrome trace (chrome://tracing, ui.perfetto.dev)");
  c->add_option("-o,--output", f->output, "text or json")->check(CLI::IsMember({"text", "json"}))->capture_default_str();
  f->proof.add(*c);
  c->add_option("--listen", f->listen, "where a local side is reached by a remote one")->capture_default_str();
  c->add_option("--lease-ms", f->lease_ms, "a peer silent for so long is lost")->check(CLI::Range(10, 3600000))->capture_default_str();
  c->add_option("--timeout", f->timeout, "seconds for the request, 0: no limit")->check(CLI::Range(0.0, 1e6));
  return [f, prefill, decode, workers] {
    Signals::install();
    f->choose_prefill = workers->count() && !prefill->count();
    f->choose_decode = workers->count() && !decode->count();
    Status s = Generate(*f).run();
    return s.ok() ? 0 : report_error(s.error());
  };
}

}  // namespace baton::runtime
