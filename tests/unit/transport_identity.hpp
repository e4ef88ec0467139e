// transport_identity.hpp: identities of a test: a folder with key pairs and known-peers files, and endpoints made of them.
#pragma once

#include "transport_test.hpp"

#include "transport/endpoint.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

namespace baton::transport {

class Folder {
 public:
  Folder() {
    path_ = (std::filesystem::temp_directory_path() / "baton-id-XXXXXX").string();
    EXPECT_TRUE(mkdtemp(path_.data()));
  }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::string file(const std::string& name) const { return path_ + "/" + name; }
  std::string write(const std::string& name, const std::string& text, mode_t mode = 0600) const {
    std::ofstream(file(name), std::ios::trunc) << text;
    chmod(file(name).c_str(), mode);
    return file(name);
  }

 private:
  std::string path_;
};

// Two sides that know each other.
struct Acquainted {
  Folder dir;
  PublicKey decode_pk = must(write_identity_file(dir.file("decode.id")));
  PublicKey prefill_pk = must(write_identity_file(dir.file("prefill.id")));
  std::string decode_knows = dir.write("decode.known", "prefill-1 " + public_key_text(prefill_pk) + "\n");
  std::string prefill_knows = dir.write("prefill.known", "decode-1 " + public_key_text(decode_pk) + " roles=decode # rack 7\n");
  Instance in = must(Instance::create());

  EndpointOptions decode_options() const { return {.listen = "127.0.0.1:0", .name = "decode", .identity = dir.file("decode.id"), .known_peers = decode_knows}; }
  EndpointOptions prefill_options() const { return {.name = "prefill", .identity = dir.file("prefill.id"), .known_peers = prefill_knows}; }
  Endpoint open(EndpointOptions o) const { return must(Endpoint::open(in, std::move(o)), "endpoint"); }
  std::unique_ptr<Session> accept(Endpoint& e) const {
    std::unique_ptr<Session> s;
    EXPECT_TRUE(poll_until(in, [&] { return (s = e.accept()) != nullptr; }, 20000));
    return s;
  }
  bool rejects(Endpoint& e, uint64_t n) const {
    return poll_until(in, [&] { return e.rejected() >= n; }, 20000);
  }
};

}  // namespace baton::transport
