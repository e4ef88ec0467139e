// KV blocks to a disk and back, durable and verified, beside the same bytes by pwrite and pread in the same folder, and beside memcpy.
#include "tests/bench/groups.h"
#include "transport/kv_spill.hpp"
#include "transport/uring.hpp"

#include <fmt/format.h>

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <random>

namespace baton::bench {
namespace {

using namespace transport;

constexpr uint64_t kBytes = 64 << 20;

struct Folder {
  std::string path = (std::filesystem::temp_directory_path() / "baton-bench-XXXXXX").string();
  Folder() {
    if (!::mkdtemp(path.data())) path.clear();
  }
  ~Folder() {
    std::error_code ignored;
    if (!path.empty()) std::filesystem::remove_all(path, ignored);
  }
};

struct Shape {
  const char* name;
  uint64_t block;
  bool direct;
  bool scattered = false; // the blocks lie in memory in another order than in the file: no two are neighbours
};

// 64 MiB in blocks: the store, and a plain file of the same blocks.
class Both {
 public:
  static Result<std::unique_ptr<Both>> open(const std::string& folder, const Shape& shape) {
    const std::string name = fmt::format("{}/{}{}", folder, shape.block, shape.direct ? shape.scattered ? "s" : "d" : "c");
    // Two sets of slots: a block is replaced by a new one beside it.
    BATON_ASSIGN(KvSpill store, KvSpill::open({.folder = name, .layout = 1, .block_bytes = shape.block, .blocks = uint32_t(2 * kBytes / shape.block), .direct = shape.direct}));
    std::unique_ptr<Both> b(new Both(std::move(store), shape));
    b->direct_ = shape.direct;
    b->file_ = open_direct((name + "/plain").c_str(), O_RDWR | O_CREAT, 0600, b->direct_);
    if (b->file_ < 0) return file_error(errno, name + "/plain");
    for (int i = 0; i < 3; ++i) { // every slot is written once before anything is measured
      if (b->spill() <= 0 || b->restore() <= 0) return *b->failed_;
      if (b->plain(true) <= 0 || b->plain(false) <= 0) return file_error(EIO, name + "/plain");
    }
    return b;
  }
  ~Both() {
    store_.remove_memory(memory_.data());
    if (file_ >= 0) ::close(file_);
  }

  // GB/s; 0 after an error.
  double spill() { return timed([&] { return store_.put(puts_); }); }
  double restore() { return timed([&] { return store_.get(gets_); }); }
  double plain(bool write) {
    return timed([&]() -> Status {
      for (uint64_t at = 0; at < kBytes; at += block_) {
        for (uint64_t done = 0; done < block_;) {
          uint8_t* p = memory_.data() + at + done;
          const ssize_t n = write ? ::pwrite(file_, p, block_ - done, off_t(at + done)) : ::pread(file_, p, block_ - done, off_t(at + done));
          if (n <= 0) return file_error(errno, "plain file");
          done += uint64_t(n);
        }
      }
      if (write && ::fdatasync(file_)) return file_error(errno, "plain file");
      return {};
    });
  }
  std::string describe() const { return store_.describe().substr(store_.describe().find(": ") + 2); }
  Status failed() const { return failed_ ? Status(*failed_) : Status(); }

 private:
  Both(KvSpill store, const Shape& shape) : block_(shape.block), store_(std::move(store)) {
    for (uint64_t i = 0; i < kBytes; i += 8) {
      const uint64_t v = i * 0x9e3779b97f4a7c15ull;
      std::memcpy(memory_.data() + i, &v, 8);
    }
    store_.add_memory(memory_.data(), kBytes);
    std::vector<uint64_t> order;
    for (uint64_t at = 0; at < kBytes; at += block_) order.push_back(at);
    if (shape.scattered) std::shuffle(order.begin(), order.end(), std::mt19937(1));
    for (uint64_t at : order) {
      puts_.push_back({{1, at}, memory_.data() + at, block_});
      gets_.push_back({{1, at}, memory_.data() + at, block_});
    }
  }
  template <class F>
  double timed(F&& f) {
    const uint64_t start = now_ns();
    if (Status s = f(); !s.ok()) {
      failed_ = s.error();
      return 0;
    }
    return double(kBytes) / double(now_ns() - start);
  }
  uint64_t block_;
  Area memory_{kBytes};
  KvSpill store_;
  std::vector<KvSpill::Put> puts_;
  std::vector<KvSpill::Get> gets_;
  int file_ = -1;
  bool direct_ = false;
  std::optional<Error> failed_;
};

}  // namespace

Status files_rows(const Settings& s, Report& report) {
  progress("files: 64 MiB of KV blocks to a folder and back");
  Folder folder;
  if (folder.path.empty()) return file_error(errno, "a temporary folder");
  Memcpy memcpy_once(kBytes);
  const Sample copy = repeat(5, [&] { return double(kBytes) / 1e9 / memcpy_once.once(); });
  for (const Shape& shape : {Shape{"4096 x 16 KiB", 16384, true}, Shape{"4096 x 16 KiB, scattered", 16384, true, true}, Shape{"1 x 64 MiB", kBytes, true}, Shape{"4096 x 16 KiB, page cache", 16384, false},
                             Shape{"1 x 64 MiB, page cache", kBytes, false}}) {
    BATON_ASSIGN(auto both, Both::open(folder.path, shape));
    auto out = interleave(s.repeats(9), [&] { return both->spill(); }, [&] { return both->plain(true); });
    auto in = interleave(s.repeats(9), [&] { return both->restore(); }, [&] { return both->plain(false); });
    BATON_TRY(both->failed());
    report.add({.group = "files", .figure = fmt::format("spill {}", shape.name), .unit = "GB/s", .value = out.figure, .yardstick = "pwrite, fdatasync",
                .against = out.yardstick, .ratio = out.ratio.median,
                .note = fmt::format("{}; memcpy of as many bytes: {:.1f} GB/s", both->describe(), copy.median)});
    report.add({.group = "files", .figure = fmt::format("restore {}", shape.name), .unit = "GB/s", .value = in.figure, .yardstick = "pread",
                .against = in.yardstick, .ratio = in.ratio.median});
  }
  return {};
}

}  // namespace baton::bench
