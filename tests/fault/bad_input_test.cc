// Bad input gets one clear line, a next step and the right exit code, and never a crash.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <functional>

#include <nlohmann/json.hpp>

#include "tests/support/process.h"

namespace fs = std::filesystem;
using baton::test::Exit;
using baton::test::Process;
using baton::test::TempDir;

namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int kPatience = 120000;
#else
constexpr int kPatience = 30000;
#endif

const std::string kModel = std::string(BATON_SOURCE_DIR) + "/models/baton-tiny";

std::string read(const fs::path& p) {
  std::ifstream f(p, std::ios::binary);
  return {std::istreambuf_iterator<char>(f), {}};
}
void write(const fs::path& p, const std::string& s) { std::ofstream(p, std::ios::binary) << s; }

// A copy of the demo model without its goldens.
fs::path model_copy(const TempDir& dir, const char* name = "model") {
  fs::path to = fs::path(dir.path()) / name;
  fs::create_directory(to);
  for (auto& e : fs::directory_iterator(kModel))
    if (e.is_regular_file()) fs::copy_file(e.path(), to / e.path().filename());
  return to;
}

void edit_config(const fs::path& model, const std::function<void(nlohmann::json&)>& edit) {
  auto j = nlohmann::json::parse(read(model / "config.json"));
  edit(j);
  write(model / "config.json", j.dump());
}

// Rewrites the JSON header of model.safetensors.
void edit_header(const fs::path& model, const std::function<void(nlohmann::json&)>& edit) {
  std::string all = read(model / "model.safetensors");
  uint64_t n = 0;
  memcpy(&n, all.data(), 8);
  auto j = nlohmann::json::parse(all.substr(8, n));
  edit(j);
  std::string header = j.dump(), length(8, 0);
  while (header.size() % 8) header += ' ';
  n = header.size();
  memcpy(length.data(), &n, 8);
  uint64_t old = 0;
  memcpy(&old, all.data(), 8);
  write(model / "model.safetensors", length + header + all.substr(8 + old));
}

struct Outcome {
  int code;
  std::string err;
};

// Runs `baton ARGS`, checks the form of its refusal, returns code and text.
Outcome refused(std::vector<std::string> args, const char* what) {
  args.insert(args.begin(), baton::test::tool("baton"));
  Process p(args);
  p.close_stdin();
  Exit e = p.wait(kPatience);
  EXPECT_TRUE(e.ended) << what << ": hangs";
  EXPECT_GT(e.code, 0) << what << ": was accepted: " << p.out();
  EXPECT_LT(e.code, 126) << what << ": crashed: " << p.err();
  EXPECT_EQ(p.out(), "") << what;
  EXPECT_NE(p.err().find("\nnext: "), std::string::npos) << what << ": " << p.err();
  EXPECT_EQ(std::count(p.err().begin(), p.err().end(), '\n'), 2) << what << ": one line and a next line: " << p.err();
  return {e.code, p.err()};
}

Outcome refused_model(const fs::path& model, const char* what) {
  return refused({"generate", "--device", "host://", "--model", model.string(), "--max-tokens", "2", "Hello"}, what);
}

TEST(BadInput, MissingSafetensors) {
  TempDir dir;
  auto m = model_copy(dir);
  fs::remove(m / "model.safetensors");
  auto r = refused_model(m, "missing safetensors");
  EXPECT_EQ(r.code, 2);
  EXPECT_NE(r.err.find("model.safetensors"), std::string::npos) << r.err;
}

TEST(BadInput, TruncatedSafetensors) {
  for (uint64_t keep : {0ull, 4ull, 8ull, 100ull, 100000ull, 7612863ull}) {
    TempDir dir;
    auto m = model_copy(dir);
    fs::resize_file(m / "model.safetensors", keep);
    auto r = refused_model(m, "truncated safetensors");
    EXPECT_EQ(r.code, 2) << keep;
    EXPECT_NE(r.err.find("model.safetensors"), std::string::npos) << r.err;
  }
}

TEST(BadInput, WrongDtype) {
  TempDir dir;
  auto m = model_copy(dir);
  edit_header(m, [](auto& j) { j["model.layers.0.mlp.up_proj.weight"]["dtype"] = "I16"; });
  auto r = refused_model(m, "wrong dtype");
  EXPECT_NE(r.err.find("I16"), std::string::npos) << r.err;
  EXPECT_NE(r.err.find("model.layers.0.mlp.up_proj.weight"), std::string::npos) << r.err;
}

TEST(BadInput, WrongShape) {
  TempDir dir;
  auto m = model_copy(dir);
  edit_header(m, [](auto& j) { j["model.layers.0.mlp.up_proj.weight"]["shape"] = {256, 640}; });
  auto r = refused_model(m, "wrong shape");
  EXPECT_EQ(r.code, 2);
  EXPECT_NE(r.err.find("model.layers.0.mlp.up_proj.weight"), std::string::npos) << r.err;
}

TEST(BadInput, MissingTensor) {
  TempDir dir;
  auto m = model_copy(dir);
  edit_header(m, [](auto& j) { j.erase("model.norm.weight"); });
  auto r = refused_model(m, "missing tensor");
  EXPECT_NE(r.err.find("model.norm.weight"), std::string::npos) << r.err;
}

TEST(BadInput, UnknownArchitecture) {
  TempDir dir;
  auto m = model_copy(dir);
  edit_config(m, [](auto& j) { j["architectures"] = {"MambaForCausalLM"}, j["model_type"] = "mamba"; });
  auto r = refused_model(m, "unknown architecture");
  EXPECT_EQ(r.code, 6);
  EXPECT_NE(r.err.find("amba"), std::string::npos) << r.err;
}

TEST(BadInput, ConfigFields) {
  std::vector<std::function<void(nlohmann::json&)>> edits = {
      [](auto& j) { j["num_attention_heads"] = 7; },      [](auto& j) { j["hidden_size"] = -256; },
      [](auto& j) { j["hidden_size"] = "many"; },          [](auto& j) { j.erase("num_hidden_layers"); },
      [](auto& j) { j["num_key_value_heads"] = 0; },       [](auto& j) { j["hidden_act"] = "gelu"; },
      [](auto& j) { j["rope_scaling"] = {{"rope_type", "yarn"}, {"factor", 4.0}}; }, [](auto& j) { j["rms_norm_eps"] = nullptr; },
      [](auto& j) { j["num_hidden_layers"] = 1000000000; }, [](auto& j) { j["vocab_size"] = 4096; },
  };
  for (size_t i = 0; i < edits.size(); i++) {
    TempDir dir;
    auto m = model_copy(dir);
    edit_config(m, edits[i]);
    refused_model(m, ("config edit " + std::to_string(i)).c_str());
  }
  TempDir dir;
  auto m = model_copy(dir);
  write(m / "config.json", "{\"architectures\": [");
  refused_model(m, "config.json is cut off");
}

TEST(BadInput, UnreadableTokenizer) {
  for (std::string text : {"", "{", "[]", "{\"model\": {\"type\": \"Unigram\", \"vocab\": []}}", "\xff\xfe"}) {
    TempDir dir;
    auto m = model_copy(dir);
    write(m / "tokenizer.json", text);
    auto r = refused_model(m, "unreadable tokenizer");
    EXPECT_NE(r.err.find("tokenizer.json"), std::string::npos) << r.err;
  }
}

TEST(BadInput, PromptLongerThanTheContext) {
  std::string prompt;
  for (int i = 0; i < 700; i++) prompt += "word ";
  auto r = refused({"generate", "--device", "host://", prompt}, "long prompt");
  EXPECT_EQ(r.code, 2);
  EXPECT_NE(r.err.find("512"), std::string::npos) << r.err;
}

TEST(BadInput, DeviceThatDoesNotExist) {
  EXPECT_EQ(refused({"generate", "--device", "nosuch://0", "x"}, "scheme").code, 3);
  EXPECT_EQ(refused({"generate", "--prefill", "emu+neuron://99", "x"}, "chip 99").code, 3);
  refused({"generate", "--decode", "cs3://127.0.0.1:1", "x"}, "nobody listens");
  refused({"generate", "--decode", "baton://127.0.0.1:1", "x"}, "no worker, no key");
  refused({"generate", "--device", "host://?thread=2", "x"}, "unknown option");
}

TEST(BadInput, Usage) {
  EXPECT_EQ(refused({"generate", "--max-tokens", "-1", "x"}, "negative").code, 2);
  EXPECT_EQ(refused({"generate", "--tp", "3", "x"}, "tp 3").code, 2);
  EXPECT_EQ(refused({"generate", "--fabric", "pigeon", "x"}, "fabric").code, 2);
  EXPECT_EQ(refused({"generate", "--top-p", "1.5", "x"}, "top-p").code, 2);
  EXPECT_EQ(refused({"generate", "--file", "/nonexistent/prompt", "x"}, "no such file").code, 2);
  EXPECT_EQ(refused({"frobnicate"}, "verb").code, 2);
}

std::string keygen(const TempDir& dir, const char* name) {
  std::string path = dir.path() + "/" + name;
  Process p({baton::test::tool("baton"), "keygen", path});
  EXPECT_EQ(p.wait(kPatience).code, 0) << p.err();
  return path;
}

std::string address_of(Process& worker) {
  EXPECT_TRUE(worker.wait_out("baton://", kPatience)) << worker.err();
  EXPECT_TRUE(worker.wait_out("\n", 1000));
  size_t at = worker.out().find("baton://");
  return worker.out().substr(at, worker.out().find_first_of(" \n", at) - at);
}

TEST(BadInput, WorkersRefuse) {
  TempDir dir;
  std::string key = keygen(dir, "key"), other = keygen(dir, "other");
  Process worker({baton::test::tool("baton"), "worker", "--role", "decode", "--device", "host://", "--listen", "127.0.0.1:0", "--key-file", key});
  std::string address = address_of(worker);

  auto wrong_key = refused({"generate", "--prefill", "host://", "--decode", address, "--key-file", other, "x"}, "wrong key");
  EXPECT_EQ(wrong_key.code, 4);

  auto in_use = refused({"worker", "--role", "decode", "--device", "host://", "--listen", address.substr(8), "--key-file", key}, "port in use");
  EXPECT_EQ(in_use.code, 5);

  auto m = model_copy(dir, "other-model");
  edit_config(m, [](auto& j) { j["rope_theta"] = 20000.0; });
  auto models = refused({"generate", "--prefill", "host://", "--decode", address, "--key-file", key, "--model", m.string(), "x"}, "other model");
  EXPECT_NE(models.err.find("MISMATCH"), std::string::npos) << models.err;

  chmod(key.c_str(), 0644);
  EXPECT_EQ(refused({"generate", "--prefill", "host://", "--decode", address, "--key-file", key, "x"}, "key that others read").code, 4);

  // After all that the worker still serves.
  chmod(key.c_str(), 0600);
  Process ok({baton::test::tool("baton"), "generate", "--prefill", "host://", "--decode", address, "--key-file", key, "--max-tokens", "3", "x"});
  EXPECT_EQ(ok.wait(kPatience).code, 0) << ok.err() << worker.err();
}

}  // namespace
