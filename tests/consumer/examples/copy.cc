// copy.cc: bytes from one device to another and back, along the path that Baton plans, or refused before anything is submitted.
//
//     ./copy [FROM [TO]]        default: emu+neuron://0 emu+cs3://0
#include "hal/baton.hpp"

#include <cstdio>
#include <cstring>
#include <numeric>

namespace {

baton::Status run(const char* from_uri, const char* to_uri) {
  constexpr uint64_t bytes = 1 << 20;
  BATON_ASSIGN(auto in, baton::Instance::create());
  BATON_ASSIGN(auto host, in.open("host://"));
  BATON_ASSIGN(auto from, in.open(from_uri));
  BATON_ASSIGN(auto to, in.open(to_uri));

  // How a copy between the two travels: direct, mapped, imported or staged, and why.
  BATON_ASSIGN(std::string plan, in.plan_copy(from, to));
  std::printf("%s\n", plan.c_str());

  BATON_ASSIGN(auto sent, host.alloc(bytes));
  BATON_ASSIGN(auto a, from.alloc(bytes));
  BATON_ASSIGN(auto b, to.alloc(bytes));
  BATON_ASSIGN(auto got, host.alloc(bytes));
  BATON_ASSIGN(void* sent_data, sent.map());
  BATON_ASSIGN(void* got_data, got.map());
  auto* number = static_cast<uint32_t*>(sent_data);
  std::iota(number, number + bytes / sizeof *number, 0u);

  // Three links, one timeline. All is submitted at once; each copy starts when the one before it has landed.
  BATON_ASSIGN(auto up, in.link(host, from));
  BATON_ASSIGN(auto across, in.link(from, to));
  BATON_ASSIGN(auto down, in.link(to, host));
  BATON_ASSIGN(auto landed, in.timeline("landed"));
  BATON_TRY(down.submit(baton::copy(b, 0, got, 0, bytes).wait(landed, 2).signal(landed, 3)));
  BATON_TRY(across.submit(baton::copy(a, 0, b, 0, bytes).wait(landed, 1).signal(landed, 2)));
  BATON_TRY(up.submit(baton::copy(sent, 0, a, 0, bytes).signal(landed, 1)));
  BATON_TRY(landed.wait_until(3, baton::deadline_in_ms(60000)));

  if (std::memcmp(sent_data, got_data, bytes)) return baton::Error(BATON_CORRUPT, "the bytes that came back are others");
  std::printf("%llu bytes went over and back unchanged\n", static_cast<unsigned long long>(bytes));
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  baton::Status s = run(argc > 1 ? argv[1] : "emu+neuron://0", argc > 2 ? argv[2] : "emu+cs3://0");
  if (s.ok()) return 0;
  std::fprintf(stderr, "%s\nnext: %s\n", s.error().text().c_str(), s.error().next);
  return 1;
}
