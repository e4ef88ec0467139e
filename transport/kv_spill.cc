#include "transport/kv_spill.hpp"

#include "transport/socket.hpp"
#include "transport/spill_index.hpp"
#include "transport/uring.hpp"

#include <fmt/format.h>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>

namespace baton::transport {
namespace {

constexpr uint64_t kGrowBytes = 64 << 20;   // `blocks` grows by this much
constexpr uint64_t kLateWritesMs = 2000;
constexpr uint64_t kWindowBytes = 16 << 20; // read at once, and verified while the next are
constexpr uint64_t kSlackRecords = 4096;    // dead ones, beyond as many as there are blocks, before the index is written anew

Error file_errno(const std::string& what) { return file_error(errno, what); }

Status write_all(int fd, const void* data, uint64_t bytes, uint64_t offset, const std::string& name) {
  for (uint64_t done = 0; done < bytes;) {
    const ssize_t n = ::pwrite(fd, static_cast<const uint8_t*>(data) + done, bytes - done, off_t(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return file_errno(fmt::format("{}: write of {} bytes at {}", name, bytes - done, offset + done));
    done += uint64_t(n);
  }
  return {};
}

Result<std::vector<uint8_t>> read_all(int fd, const std::string& name) {
  struct stat s;
  if (::fstat(fd, &s)) return file_errno(name);
  std::vector<uint8_t> bytes(size_t(s.st_size));
  for (uint64_t done = 0; done < bytes.size();) {
    const ssize_t n = ::pread(fd, bytes.data() + done, bytes.size() - done, off_t(done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return file_errno(fmt::format("{}: read at {}", name, done));
    if (n == 0) bytes.resize(done);
    done += uint64_t(n);
  }
  return bytes;
}

std::string key_text(const KvBlockKey& k) { return fmt::format("{:016x}{:016x}", k.high, k.low); }

}  // namespace

struct KvSpill::Impl {
  KvSpillOptions options;
  std::string blocks_path, index_path;
  uint64_t slot_bytes = 0;
  Fd folder, lock, blocks, index;
  bool direct = false;
  std::optional<Uring> ring; // after `blocks`: it goes first
  uint32_t file = 0;
  SpillIndex x;
  uint64_t bytes = 0;                // of live blocks
  uint64_t allocated = 0;            // bytes of `blocks`
  uint64_t rewrite_at = 0;           // records
  std::vector<uint32_t> free_slots;  // a heap, lowest first
  uint32_t fresh = 0;                // slots from here on were never used
  std::optional<Error> failed;       // nobody knows what is on the disk
  std::vector<SpillRecord> batch;
  std::vector<UringIo> ios;

  ~Impl() {
    ring.reset();
    if (blocks) ::flock(blocks.get(), LOCK_UN); // the kernel lets go of a ring's files a little later
    if (!index || failed || x.marked) return;
    batch.assign(1, {SpillKind::mark, 0, {}, 0, 0, 0, 0, 0}); // says that all before it are durable: damage to them is not taken for a torn tail
    (void)append(false);
  }

  Status take_folder() {
    const std::string& dir = options.folder;
    const bool made = ::mkdir(dir.c_str(), 0700) == 0;
    if (!made && errno != EEXIST) return file_errno(dir);
    folder = Fd(::open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!folder) return file_errno(dir);
    if (made) { // a power cut must not take the folder away from what it will hold
      Fd parent(::openat(folder.get(), "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
      if (!parent || ::fsync(parent.get())) return file_errno(dir + "/..");
    }
    const std::string name = dir + "/lock";
    lock = Fd(::open(name.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    if (!lock) return file_errno(name);
    if (::flock(lock.get(), LOCK_EX | LOCK_NB)) {
      if (errno != EWOULDBLOCK) return file_errno(name);
      char pid[16] = {};
      if (::pread(lock.get(), pid, sizeof pid - 1, 0) < 0) pid[0] = 0;
      return Error(BATON_BUSY, fmt::format("{}: process {} has it open", dir, pid[0] ? pid : "?"), "stop that process, or name another folder");
    }
    const std::string pid = std::to_string(::getpid());
    if (::ftruncate(lock.get(), 0) == 0) (void)write_all(lock.get(), pid.data(), pid.size(), 0, name); // on a full disk BUSY has no pid
    return {};
  }

  Status open_blocks() {
    direct = options.direct;
    blocks = Fd(open_direct(blocks_path.c_str(), O_RDWR | O_CREAT, 0600, direct));
    struct stat s;
    if (!blocks || ::fstat(blocks.get(), &s)) return file_errno(blocks_path);
    allocated = uint64_t(s.st_size);
    BATON_TRY(wait_for_late_writes());
    BATON_ASSIGN(Uring r, Uring::open({.depth = options.depth, .io_uring = options.io_uring}));
    ring.emplace(std::move(r));
    BATON_ASSIGN(file, ring->add_file(blocks.get(), direct, blocks_path));
    return {};
  }

  // A process that was killed has let go of `lock`, but writes that it gave to its ring may still reach the disk: into slots that are free. They hold
  // the description of `blocks`, and so the flock on it.
  Status wait_for_late_writes() {
    for (const uint64_t until = deadline_in_ms(kLateWritesMs); ::flock(blocks.get(), LOCK_EX | LOCK_NB); ::usleep(500)) {
      if (errno != EWOULDBLOCK && errno != EINTR) return file_errno(blocks_path);
      if (now_ns() > until)
        return Error(BATON_BUSY, fmt::format("{}: writes of a process that has ended are still under way after {} ms", blocks_path, kLateWritesMs),
                     "try again; check the disk");
    }
    return {};
  }

  Status open_index() {
    index = Fd(::open(index_path.c_str(), O_RDWR | O_CLOEXEC));
    if (!index) {
      if (errno != ENOENT) return file_errno(index_path);
      x.header.block_bytes = options.block_bytes, x.header.layout = options.layout;
      return rewrite();
    }
    BATON_ASSIGN(auto image, read_all(index.get(), index_path));
    BATON_ASSIGN(x, parse_spill_index(index_path, image));
    if (x.header.layout != options.layout || x.header.block_bytes != options.block_bytes)
      return Error(BATON_MISMATCH, fmt::format("{}: blocks of {} bytes in layout {:016x}, asked for {} bytes in {:016x}", index_path, x.header.block_bytes,
                                               x.header.layout, options.block_bytes, options.layout),
                   "name a folder for each layout");
    uint32_t slots = 0;
    for (auto& [_, e] : x.live) slots = std::max(slots, e.slot + 1), bytes += e.bytes;
    if (slots > options.blocks)
      return Error(BATON_CAPACITY, fmt::format("{}: slot {} of {} is in use", index_path, slots - 1, options.blocks), fmt::format("ask for {} blocks or more", slots));
    // What this process concludes from records that were read, it may conclude only once they are on the disk.
    if (::ftruncate(index.get(), off_t((x.records + 1) * kSpillUnit)) || ::fdatasync(index.get()) || ::fsync(folder.get())) return file_errno(index_path);
    plan_rewrite();
    return x.header.slots != options.blocks ? rewrite() : rewrite_if_long();
  }

  void find_free() {
    for (auto& [_, e] : x.live) fresh = std::max(fresh, e.slot + 1);
    std::vector<bool> used(fresh);
    for (auto& [_, e] : x.live) used[e.slot] = true;
    for (uint32_t s = 0; s < fresh; ++s)
      if (!used[s]) free_slots.push_back(s); // sorted, so a heap
  }
  void give_back(uint32_t slot) {
    free_slots.push_back(slot);
    std::push_heap(free_slots.begin(), free_slots.end(), std::greater<>());
  }
  uint32_t take_slot() {
    if (free_slots.empty()) return fresh++;
    std::pop_heap(free_slots.begin(), free_slots.end(), std::greater<>());
    const uint32_t s = free_slots.back();
    free_slots.pop_back();
    return s;
  }
  uint64_t free_count() const { return free_slots.size() + (options.blocks - fresh); }

  // A new index with the live blocks alone takes the place of the old one, or nothing changes.
  Status rewrite() {
    SpillHeader h = x.header;
    if (::getrandom(&h.id, sizeof h.id, 0) != sizeof h.id) return file_errno("getrandom");
    h.slots = options.blocks, h.base = x.live.size(), h.next_generation = x.next_generation;
    seal_header(h);
    std::vector<SpillRecord> records;
    for (auto& [key, e] : x.live) records.push_back({SpillKind::put, e.slot, key, e.bytes, e.generation, e.checksum, 0, 0});
    std::sort(records.begin(), records.end(), [](auto& a, auto& b) { return a.generation < b.generation; });
    for (uint64_t i = 0; i < records.size(); ++i) seal_record(records[i], h, i);
    const std::string name = index_path + ".new";
    Fd f(::open(name.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    if (!f) return file_errno(name);
    Status s = write_all(f.get(), &h, sizeof h, 0, name);
    if (s.ok()) s = write_all(f.get(), records.data(), records.size() * kSpillUnit, kSpillUnit, name);
    if (s.ok() && ::fdatasync(f.get())) s = file_errno(name);
    if (s.ok() && ::rename(name.c_str(), index_path.c_str())) s = file_errno(name);
    if (!s.ok()) {
      ::unlink(name.c_str());
      return s;
    }
    index = std::move(f);
    x.header = h;
    x.records = records.size();
    x.marked = true;
    plan_rewrite();
    if (::fsync(folder.get())) return give_up(file_errno(options.folder));
    return {};
  }
  void plan_rewrite() { rewrite_at = 2 * x.live.size() + kSlackRecords; }
  Status rewrite_if_long() {
    if (x.records <= rewrite_at) return {};
    Status s = rewrite();
    if (!s.ok() && !failed) rewrite_at = x.records + kSlackRecords; // the old one is as good; later
    return failed ? s : Status();
  }

  Error give_up(const Error& e) {
    failed = Error(BATON_IO, fmt::format("{}: an earlier write failed: {}", options.folder, e.what), "open the folder again");
    return e;
  }
  Status usable() const { return failed ? Status(*failed) : Status(); }

  // Writes `batch` behind the index; with `sync`, it is on the disk on return. After an error the index is as it was, or this object has failed.
  Status append(bool sync) {
    for (uint64_t i = 0; i < batch.size(); ++i) {
      batch[i].durable = x.records;
      seal_record(batch[i], x.header, x.records + i);
    }
    const uint64_t end = (x.records + 1) * kSpillUnit;
    if (Status s = write_all(index.get(), batch.data(), batch.size() * kSpillUnit, end, index_path); !s.ok()) {
      if (::ftruncate(index.get(), off_t(end))) return give_up(s.error());
      return s;
    }
    if (sync && ::fdatasync(index.get())) return give_up(file_errno(index_path));
    x.records += batch.size();
    x.marked = false;
    return {};
  }

  // Room on the disk for slots below `end`.
  Status grow(uint64_t end) {
    const uint64_t need = end * slot_bytes;
    for (uint64_t to : {std::max(need, std::min(allocated + kGrowBytes, options.blocks * slot_bytes)), need}) {
      if (need <= allocated) return {};
      int rc;
      do rc = ::fallocate(blocks.get(), 0, off_t(allocated), off_t(to - allocated));
      while (rc && errno == EINTR);
      if (rc && errno == EOPNOTSUPP) rc = ::ftruncate(blocks.get(), off_t(to));
      if (!rc) allocated = to;
    }
    return need <= allocated ? Status() : Status(file_errno(fmt::format("{}: room for {} bytes", blocks_path, need)));
  }

  void apply(const SpillRecord& r) { // of a durable batch
    if (auto it = x.live.find(r.key); it != x.live.end()) {
      give_back(it->second.slot);
      bytes -= it->second.bytes;
      x.live.erase(it);
    }
    if (r.kind == SpillKind::put) x.live.emplace(r.key, SpillEntry{r.slot, r.bytes, r.generation, r.checksum}), bytes += r.bytes;
  }

  Status verify(std::span<const Get> gets) {
    for (const Get& g : gets) {
      ring->step();
      const SpillEntry& e = x.live.find(g.key)->second;
      if (spill_checksum(g.data, g.bytes, g.key, x.header, e.slot, e.generation) != e.checksum)
        return Error(BATON_CORRUPT, fmt::format("{}: slot {} (byte {}): block {} has another checksum than when it was put", blocks_path, e.slot,
                                                e.slot * slot_bytes, key_text(g.key)),
                     "drop the block and compute it again; check the disk");
    }
    return {};
  }

  Status write_blocks(std::span<const Put> puts) {
    uint32_t end = 0;
    for (const Put& p : puts) {
      const uint32_t slot = take_slot();
      end = std::max(end, slot + 1);
      const uint64_t generation = x.next_generation++;
      batch.push_back({SpillKind::put, slot, p.key, p.bytes, generation, 0, 0, 0});
      ios.push_back({UringIo::write, file, slot * slot_bytes, const_cast<void*>(p.data), p.bytes});
    }
    BATON_TRY(grow(end));
    BATON_TRY(ring->start(ios));
    for (size_t i = 0; i < puts.size(); ++i) { // while they are written
      ring->step();
      SpillRecord& r = batch[i];
      r.checksum = spill_checksum(puts[i].data, r.bytes, r.key, x.header, r.slot, r.generation);
    }
    BATON_TRY(ring->wait(BATON_NO_DEADLINE));
    if (::fdatasync(blocks.get())) return give_up(file_errno(blocks_path));
    return append(true);
  }
};

KvSpill::KvSpill(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
KvSpill::KvSpill(KvSpill&&) noexcept = default;
KvSpill& KvSpill::operator=(KvSpill&&) noexcept = default;
KvSpill::~KvSpill() = default;

Result<KvSpill> KvSpill::open(const KvSpillOptions& options) {
  if (options.folder.empty() || options.blocks == 0 || options.block_bytes == 0 || options.block_bytes > kSpillBlockBytes)
    return Error(BATON_INVALID_ARGUMENT, fmt::format("'{}': {} blocks of {} bytes", options.folder, options.blocks, options.block_bytes),
                 "name a folder, one block or more, and a block of 1 byte to 1 GiB");
  auto m = std::make_unique<Impl>();
  m->options = options;
  m->blocks_path = options.folder + "/blocks";
  m->index_path = options.folder + "/index";
  m->slot_bytes = direct_up(options.block_bytes);
  BATON_TRY(m->take_folder());
  BATON_TRY(m->open_blocks());
  BATON_TRY(m->open_index());
  m->find_free();
  return KvSpill(std::move(m));
}

Status KvSpill::put(std::span<const Put> puts) {
  Impl& m = *impl_;
  BATON_TRY(m.usable());
  for (const Put& p : puts)
    if (p.bytes == 0 || p.bytes > m.options.block_bytes)
      return Error(BATON_INVALID_ARGUMENT, fmt::format("{}: block {} has {} bytes, a slot {}", m.options.folder, key_text(p.key), p.bytes, m.options.block_bytes),
                   "put 1 byte to block_bytes");
  if (puts.empty()) return {};
  if (puts.size() > m.free_count())
    return Error(BATON_CAPACITY, fmt::format("{}: {} blocks to put, {} of {} slots are free", m.options.folder, puts.size(), m.free_count(), m.options.blocks),
                 "drop blocks first (list() has the oldest in front), or open it with more");
  m.batch.clear(), m.ios.clear();
  if (Status s = m.write_blocks(puts); !s.ok()) {
    for (const SpillRecord& r : m.batch) m.give_back(r.slot);
    return s;
  }
  for (const SpillRecord& r : m.batch) m.apply(r);
  return m.rewrite_if_long();
}

Status KvSpill::drop(std::span<const KvBlockKey> keys) {
  Impl& m = *impl_;
  BATON_TRY(m.usable());
  m.batch.clear();
  std::unordered_map<KvBlockKey, bool, KvBlockKeyHash> once;
  for (const KvBlockKey& k : keys)
    if (auto it = m.x.live.find(k); it != m.x.live.end() && once.emplace(k, true).second)
      m.batch.push_back({SpillKind::drop, it->second.slot, k, 0, it->second.generation, 0, 0, 0});
  if (m.batch.empty()) return {};
  BATON_TRY(m.append(true));
  for (const SpillRecord& r : m.batch) m.apply(r);
  return m.rewrite_if_long();
}

Status KvSpill::get(std::span<const Get> gets) {
  Impl& m = *impl_;
  m.ios.clear();
  for (const Get& g : gets) {
    auto it = m.x.live.find(g.key);
    if (it == m.x.live.end()) return Error(BATON_NOT_FOUND, fmt::format("{}: no block {}", m.options.folder, key_text(g.key)), "ask has() first, or compute it");
    if (it->second.bytes != g.bytes)
      return Error(BATON_MISMATCH, fmt::format("{}: block {} has {} bytes, asked for {}", m.options.folder, key_text(g.key), it->second.bytes, g.bytes),
                   "get as many bytes as were put");
    m.ios.push_back({UringIo::read, m.file, it->second.slot * m.slot_bytes, g.data, g.bytes});
  }
  Status s;
  std::span<const Get> read; // and not verified
  for (size_t i = 0; s.ok() && (i < gets.size() || !read.empty());) { // one window is verified while the next is read
    size_t n = 0;
    for (uint64_t bytes = 0; i + n < gets.size() && bytes < kWindowBytes; ++n) bytes += gets[i + n].bytes;
    s = m.ring->start(std::span(m.ios).subspan(i, n));
    m.ring->step();
    const Status sound = m.verify(read);
    const Status moved = m.ring->wait(BATON_NO_DEADLINE);
    if (s.ok()) s = !sound.ok() ? sound : moved;
    read = gets.subspan(i, n);
    i += n;
  }
  if (!s.ok())
    for (const Get& g : gets) std::memset(g.data, 0, g.bytes);
  return s;
}

bool KvSpill::has(const KvBlockKey& key) const { return impl_->x.live.contains(key); }

std::vector<KvSpill::Block> KvSpill::list() const {
  std::vector<Block> all;
  for (auto& [key, e] : impl_->x.live) all.push_back({key, e.bytes, e.generation});
  std::sort(all.begin(), all.end(), [](auto& a, auto& b) { return a.generation < b.generation; });
  return all;
}

bool KvSpill::add_memory(void* memory, uint64_t bytes) { return impl_->ring->add_memory(memory, bytes); }
void KvSpill::remove_memory(void* memory) { impl_->ring->remove_memory(memory); }

KvSpill::Stats KvSpill::stats() const {
  const Impl& m = *impl_;
  return {m.x.live.size(), m.options.blocks, m.bytes, (m.x.records + 1) * kSpillUnit};
}

std::string KvSpill::describe() const {
  const Impl& m = *impl_;
  return fmt::format("{}: {} of {} blocks, {}, {}", m.options.folder, m.x.live.size(), m.options.blocks, m.direct ? "O_DIRECT" : "page cache", m.ring->describe());
}

}  // namespace baton::transport
