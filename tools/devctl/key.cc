// key new, key show, key known: identities of sessions, and the files of those that may talk to them. Public halves alone are printed.
#include "tools/devctl/verbs.h"
#include "transport/identity.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

namespace baton::devctl {
namespace {

int print_key(const Context& c, const char* verb, const std::string& file, const transport::PublicKey& k) {
  const std::string text = transport::public_key_text(k), print = transport::fingerprint(k);
  if (c.out.is_json()) c.out.document(verb, {{"file", file}, {"public_key", text}, {"fingerprint", print}});
  else c.out.print(fmt::format("public key   {}\nfingerprint  {}\n{}\n", text, print, c.out.dim("a peer's known-peers file needs the line: NAME " + text)));
  return kOk;
}

}  // namespace

int key_new(const Context& c, const std::string& file) {
  auto k = transport::write_identity_file(file);
  return k ? print_key(c, "key.new", file, *k) : c.out.fail(k.error());
}

int key_show(const Context& c, const std::string& file) {
  auto k = transport::identity_public_key(file);
  return k ? print_key(c, "key.show", file, *k) : c.out.fail(k.error());
}

int key_known(const Context& c, const std::string& file) {
  auto known = transport::KnownPeers::open(file);
  if (!known) return c.out.fail(known.error());
  auto peers = known->all();
  std::sort(peers.begin(), peers.end(), [](auto& a, auto& b) { return a.line < b.line; });
  if (c.out.is_json()) {
    json rows = json::array();
    for (auto& p : peers)
      rows.push_back({{"name", p.name}, {"fingerprint", transport::fingerprint(p.key)}, {"public_key", transport::public_key_text(p.key)}, {"roles", p.roles}, {"line", p.line}});
    c.out.document("key.known", {{"file", file}, {"peers", rows}});
    return kOk;
  }
  Table t({"NAME", "FINGERPRINT", "ROLES"});
  for (auto& p : peers) t.row({p.name, transport::fingerprint(p.key), p.roles.empty() ? "any" : fmt::format("{}", fmt::join(p.roles, ","))});
  if (!t.empty()) c.out.print(t.text());
  return kOk;
}

}  // namespace baton::devctl
