// SPDX-License-Identifier: GPL-2.0-or-later
// image_fuzz: a libFuzzer target that damages valid images, then uses all of our code on them.
//
// For every image, besides no crash, no hang and no sanitizer report:
// - check stores nothing, and says that an image attaches exactly if attach succeeds;
// - if check says that nothing is lost (exit code 0 or 1), it says so after repair, too, every read
//   succeeds, export succeeds, and after close check still says so;
// - if an image attaches, what is written is read back, before and after background work, and it
//   attaches again after close; repair makes no image worse;
// - export with force does not crash, whatever the image is.
// Some pages cannot be read. check cannot always know what was lost with them, so then only two
// things are required: reads end, and check and attach agree.
//
// Input: one byte for the base image, one byte for what is done, then 8 bytes for each mutation.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <deque>

#include "blockdev/backing_reader.h"
#include "cache/status.h"
#include "fuzz/mutation.h"
#include "inspect/repair.h"
#include "inspect/rescue.h"

namespace pcache {
namespace {

using std::chrono::milliseconds;
using Bytes = std::vector<std::byte>;

constexpr size_t kMostMutations = 12;
constexpr uint64_t kMostReadBytes = 2 << 20;
constexpr uint64_t kReadBytes = 128 << 10;

// Bits of the second byte of the input.
constexpr unsigned kRepair = 1, kReclaim = 2, kDrain = 4, kNotUnique = 8;
constexpr unsigned kExportMask = 0xf0;  // all of them set: an export costs more than the rest

const std::vector<BaseImage>& bases() {
  static const std::vector<BaseImage> kBases = make_base_images();
  return kBases;
}

[[noreturn]] void broken(const std::string& invariant, const CheckReport& report) {
  fprintf(stderr, "image_fuzz: %s\ncheck: exit code %d, attaches %d\n", invariant.c_str(),
          report.exit_code(), report.attaches);
  for (const Finding& finding : report.findings.all())
    fprintf(stderr, "  %s %s: %s: %s\n", severity_name(finding.severity), finding.code.c_str(),
            finding.where.c_str(), finding.text.c_str());
  abort();
}

// What the second byte says of the backing device.
BackingIdentity backing_of(unsigned plan) { return fuzz_backing((plan & kNotUnique) == 0); }

CheckReport look(MemoryPmem& memory, unsigned plan, std::vector<Extent>* named = nullptr) {
  CheckOptions options;
  options.backing = backing_of(plan);
  if (named)
    options.visit = [named](const SurveyedKset& kset) {
      for (const SurveyedKey& k : kset.keys)
        if (k.state == KeyState::kLive) named->push_back({k.key.off, k.key.len});
    };
  memory.forbid_stores();
  CheckReport report = check_image(memory.pmem(), options);
  memory.allow_stores();
  return report;
}

// The extents without overlaps.
std::vector<Extent> merged(std::vector<Extent> extents) {
  std::sort(extents.begin(), extents.end(),
            [](const Extent& a, const Extent& b) { return a.off < b.off; });
  std::vector<Extent> out;
  for (const Extent& extent : extents) {
    if (!out.empty() && extent.off <= out.back().end())
      out.back().len = std::max(out.back().end(), extent.end()) - out.back().off;
    else
      out.push_back(extent);
  }
  return out;
}

// Exports into a file that is then dropped.
void export_it(MemoryPmem& memory, CheckReport* report, bool readable) {
  const int fd = memfd_create("image-fuzz-backing", MFD_CLOEXEC);
  PCACHE_CHECK(fd >= 0 && ftruncate(fd, kFuzzLogicalBytes) == 0);
  BackingFile backing;
  backing.path = "backing";
  backing.fd = UniqueFd(fd);
  backing.size_bytes = kFuzzLogicalBytes;
  RescueOptions options;
  options.to = "/dev/shm/image-fuzz-" + std::to_string(getpid());
  options.force = report->exit_code() == 2 || report->frame.blank;
  unlink(options.to.c_str());
  memory.forbid_stores();
  const auto done = rescue(memory.pmem(), BackingReader(std::move(backing)), report, options);
  memory.allow_stores();
  unlink(options.to.c_str());
  if (!done && readable) broken("export failed: " + done.error().text, *report);
}

// A cache on the image, in use for a while.
class Session {
 public:
  Session(FuzzCache* over, const CheckReport& report, bool readable)
      : over_(*over), report_(report), readable_(readable) {
    queue_ = over_.cache->create_queue(64).take();
  }

  void run(const std::vector<Extent>& named, unsigned plan) {
    read_all(named);
    write_and_read_back();
    int flushed = run_one({PCACHE_OP_FLUSH, 0, 0, 0, nullptr, 0, 0, nullptr}, {})->request.result;
    if (flushed != 0 && sound()) broken("a flush failed", report_);
    over_.executor->advance(milliseconds(5000));
    if (plan & kReclaim) {
      PCACHE_CHECK(over_.cache->set_gc_percent(0).ok());
      over_.executor->advance(milliseconds(5000));
    }
    read_written();
    read_all(named);
    status_json(*over_.cache);
    status_line(*over_.cache);
    queue_.reset();
  }

 private:
  struct Io {
    pcache_request request;
    Bytes data;
    bool done = false;
  };

  bool sound() const { return readable_ && report_.exit_code() < 2; }

  // If a write finds no space it stays in the queue.
  Io* run_one(const pcache_request& request, Bytes data) {
    Io& io = ios_.emplace_back(Io{request, std::move(data)});
    io.request.buf = io.data.data();
    io.request.user = &io;
    if (queue_->submit(&io.request) == 1) {
      io.done = true;
      return &io;
    }
    const bool may_wait = request.op == PCACHE_OP_WRITE;
    if (may_wait) over_.executor->advance(milliseconds(0));
    while (!io.done) {
      pcache_request* done[8];
      const int n = queue_->reap(done, may_wait ? 0 : 1, 8, may_wait ? 0 : -1);
      PCACHE_CHECK(n >= 0);
      for (int i = 0; i < n; i++) static_cast<Io*>(done[i]->user)->done = true;
      if (n == 0 && may_wait) break;
    }
    return &io;
  }

  Io* read(uint64_t off, uint64_t len) {
    Io* io = run_one({PCACHE_OP_READ, 0, off, len, nullptr, 0, 0, nullptr}, Bytes(len));
    if (io->request.result != 0 && sound())
      broken("a read of " + std::to_string(off) + "+" + std::to_string(len) + " failed with " +
                 std::to_string(io->request.result),
             report_);
    return io;
  }

  void read_all(const std::vector<Extent>& named) {
    uint64_t left = kMostReadBytes;
    for (const Extent& extent : named)
      for (uint64_t at = extent.off; at < extent.end() && left > 0;) {
        const uint64_t len = std::min({extent.end() - at, kReadBytes, left});
        read(at, len);
        at += len;
        left -= len;
        ios_.pop_back();
      }
    read(kFuzzLogicalBytes - kPageBytes, kPageBytes);
    ios_.pop_back();
  }

  void write_and_read_back() {
    struct {
      uint64_t off, len;
      uint32_t flags;
    } const writes[] = {{512, 512, PCACHE_REQ_FUA},
                        {4096, 20480, 0},
                        {4 << 20, 8192, PCACHE_REQ_FUA | PCACHE_REQ_PREFLUSH},
                        {(8 << 20) - 4096, 8192, 0}};
    for (const auto& w : writes) {
      Io* io = run_one({PCACHE_OP_WRITE, w.flags, w.off, w.len, nullptr, 0, 0, nullptr},
                       Bytes(w.len, std::byte(0xa0 + written_.size())));
      if (io->done && io->request.result == 0) written_.push_back(io);
    }
    read_written();
  }

  void read_written() {
    for (const Io* io : written_) {
      const Io* back = read(io->request.off, io->request.len);
      if (back->request.result != 0 || back->data != io->data)
        broken("what was written at " + std::to_string(io->request.off) +
                   " is not read back, result " + std::to_string(back->request.result),
               report_);
      ios_.pop_back();
    }
  }

  FuzzCache& over_;
  const CheckReport& report_;
  const bool readable_;
  std::deque<Io> ios_;  // outlives the queue, in which writes may be stalled
  std::unique_ptr<Queue> queue_;
  std::vector<const Io*> written_;
};

void attach_and_use(MemoryPmem& memory, const CheckReport& report, bool readable,
                    const std::vector<Extent>& named, unsigned plan) {
  Options options;
  options.drain = plan & kDrain;
  options.log = Log([](LogLevel, const char*) {});
  FuzzCache over;
  const auto attached = over.attach(memory, options, backing_of(plan));
  if (attached.ok() != report.attaches)
    broken(attached.ok() ? "attached" : "attach refused: " + attached.error().text, report);
  if (!attached) return;
  Session(&over, report, readable).run(named, plan);
  const Status closed = over.cache->close();
  over.cache.reset();
  if (!readable) return;
  if (!closed && report.exit_code() < 2) broken("close failed: " + closed.error().text, report);
  const CheckReport after = look(memory, plan);
  if (!after.attaches) broken("it does not attach any more after close", after);
  if (after.exit_code() == 2 && report.exit_code() < 2) broken("it was sound before", after);
}

CheckReport repair(MemoryPmem& memory, CheckReport report, bool readable, unsigned plan) {
  const Status repaired = apply_repair(memory.pmem(), plan_repair(memory.pmem(), report, nullptr));
  if (!repaired) broken("repair failed: " + repaired.error().text, report);
  CheckReport after = look(memory, plan);
  if (report.attaches && !after.attaches) broken("repair has made it unattachable", after);
  if (readable && after.exit_code() > report.exit_code()) broken("repair has made it worse", after);
  return after;
}

void run(std::span<const uint8_t> input) {
  unsigned which = 0, plan = 0;
  if (!input.empty()) which = input[0] % bases().size();
  if (input.size() > 1) plan = input[1];
  const BaseImage& base = bases()[which];
  const auto memory = base.memory->crash_image({});
  Mutator mutator(base, *memory);
  size_t at = 2;
  for (size_t n = 0; n < kMostMutations && at + sizeof(Mutation) <= input.size(); n++) {
    Mutation mutation;
    memcpy(&mutation, input.data() + at, sizeof mutation);
    mutator.apply(mutation);
    at += sizeof mutation;
  }
  const bool readable = !mutator.make_unreadable();
  // The journal's lock and copies are only needed to mend a page.
  memory->set_recording(!readable);

  std::vector<Extent> named;
  CheckReport report = look(*memory, plan, &named);
  if (plan & kRepair) report = repair(*memory, std::move(report), readable, plan);
  if ((plan & kExportMask) == kExportMask) export_it(*memory, &report, readable);
  report.recovered.reset();
  attach_and_use(*memory, report, readable, merged(std::move(named)), plan);
}

}  // namespace
}  // namespace pcache

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  pcache::bases();
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  pcache::run({data, size});
  return 0;
}
