// replay_main.cc: main() of a fuzz target where libFuzzer is not: runs every file of the corpus, then simple mutations of them.
//
//     fuzz_program CORPUS [MUTATIONS]      the folder, and how many mutated inputs (2000); a file in its place is run alone
//
// The mutations are the same each time (seeded), but end after a second, so that a slow sanitizer runs fewer. The input that runs
// is written to a file, which is named, when the process dies in it.
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
// A sanitizer's, where there is one: it ends the process by itself, and reports a fault better than a handler could.
extern "C" __attribute__((weak)) void __sanitizer_set_death_callback(void (*)());

namespace {

using Bytes = std::vector<uint8_t>;
namespace fs = std::filesystem;

constexpr long kMaxKib = 1 << 20;  // resident: no input may cost a GiB

char current[4096];  // the file that holds the input that runs, for the handler
Bytes running;

void keep() {
  const int fd = ::open(current, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd >= 0 && ::write(fd, running.data(), running.size()) == ssize_t(running.size()))
    std::fprintf(stderr, "the input is in %s\nnext: run this program with that file as its argument\n", current);
}

void died(int signal) {
  keep();
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

void run(const Bytes& input) {
  running = input;
  // A copy of its own, so that a sanitizer sees the end of the input.
  const Bytes exact(input);
  LLVMFuzzerTestOneInput(exact.data(), exact.size());
}

Bytes read(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// One to four small changes: bits, numbers at the edge, bytes taken out, doubled or cut off.
Bytes mutated(Bytes b, const std::vector<Bytes>& all, std::mt19937_64& random) {
  for (uint64_t n = 1 + random() % 4; n; --n) {
    if (b.empty()) b = all[random() % all.size()];
    if (b.empty()) return b;
    const size_t at = random() % b.size(), length = 1 + random() % std::min<size_t>(b.size() - at, 16);
    const auto from = b.begin() + ptrdiff_t(at), to = from + ptrdiff_t(length);
    switch (random() % 7) {
      case 0: *from = uint8_t(*from ^ 1u << random() % 8); break;
      case 1: *from = uint8_t(random()); break;
      case 2: std::fill(from, to, random() % 2 ? 0xff : 0); break;
      case 3: b.erase(from, to); break;
      case 4: {
        const Bytes part(from, to);
        b.insert(from, part.begin(), part.end());
        break;
      }
      case 5: b.resize(at); break;
      case 6: {  // the end of another
        const Bytes& other = all[random() % all.size()];
        b.resize(at);
        b.insert(b.end(), other.begin() + ptrdiff_t(std::min(at, other.size())), other.end());
        break;
      }
    }
  }
  return b;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: %s CORPUS|FILE [MUTATIONS]\n", argv[0]);
    return 2;
  }
  std::snprintf(current, sizeof current, "%s.crash", argv[0]);
  std::signal(SIGABRT, died);
  if (__sanitizer_set_death_callback) __sanitizer_set_death_callback(keep);
  else
    for (const int s : {SIGSEGV, SIGBUS, SIGFPE, SIGILL}) std::signal(s, died);
  std::vector<fs::path> files;
  if (fs::is_directory(argv[1]))
    for (const auto& e : fs::directory_iterator(argv[1])) files.push_back(e.path());
  else
    files.push_back(argv[1]);
  std::sort(files.begin(), files.end());
  std::vector<Bytes> all;
  for (const fs::path& f : files) all.push_back(read(f));
  if (all.empty()) {
    std::fprintf(stderr, "%s holds no input\nnext: put a small valid one there; tests/fuzz/README.md says how\n", argv[1]);
    return 1;
  }
  for (const Bytes& b : all) run(b);
  const bool folder = fs::is_directory(argv[1]);
  const int wanted = argc > 2 ? std::atoi(argv[2]) : folder ? 2000 : 0;
  std::mt19937_64 random(7);
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(1);
  int done = 0;
  for (; done < wanted && std::chrono::steady_clock::now() < until; ++done) run(mutated(all[random() % all.size()], all, random));
  rusage used{};
  ::getrusage(RUSAGE_SELF, &used);
  std::printf("%zu inputs of the corpus, %d mutated, %ld MiB at most\n", all.size(), done, used.ru_maxrss / 1024);
  if (used.ru_maxrss < kMaxKib) return 0;
  std::fprintf(stderr, "an input made this process hold %ld MiB\nnext: ./dev fuzz finds which, by -malloc_limit_mb\n", used.ru_maxrss / 1024);
  return 1;
}
