// SPDX-License-Identifier: GPL-2.0-or-later
// pcachectl resize: makes a formatted cache larger or smaller, and keeps its content; larger alone
// while it is attached: then who has it does so.
// pcachectl resize-backing: has an attached cache use all of a backing device that has grown.
#include <sys/stat.h>
#include <unistd.h>

#include <cinttypes>
#include <set>

#include "ctl/common.h"
#include "ctl/live.h"
#include "segment/grow.h"
#include "segment/shrink.h"

namespace pcache::ctl {

namespace {

struct Options {
  Image image;
  std::optional<std::string> size;
  uint64_t size_bytes = 0;  // from the option; 0: the device's size
};

// Until it is known that a file can be resized, it is opened only to look.
Result<std::unique_ptr<Pmem>> open_to_resize(const Options& options) {
  const std::string& path = options.image.cache;
  struct stat st;
  if (stat(path.c_str(), &st) != 0) return error_errno(errno, "cache device %s", path.c_str());
  if (!S_ISREG(st.st_mode)) {
    auto device = open_cache(path, true);
    if (device && device.value()->size_bytes() < options.size_bytes)
      return make_error(EINVAL,
                        "cache device %s: has %s, a device cannot be made larger; leave "
                        "--size out",
                        path.c_str(), bytes_text(device.value()->size_bytes()).c_str());
    return device;
  }
  PmemOptions opening;
  opening.path = path;
  opening.emulate = true;
  opening.keep_sparse = true;
  opening.provisional = true;
  opening.create_bytes = options.size_bytes;
  return Pmem::open(opening, Log());
}

// What the segments that would go are used for.
struct InUse {
  uint32_t log = 0, data = 0;
  uint32_t needed = 0;  // so many first segments hold all that there is
  uint32_t all() const { return log + data; }
};

// A key that is dead holds no data, but an attach refuses one that names no segment.
class Uses {
 public:
  void add(const SurveyedKset& kset) {
    for (const SurveyedKey& key : kset.keys) named_.insert(key.key.cache_seg_id);
  }
  InUse behind(const LogSurvey& log, uint32_t target) const {
    InUse out;
    for (uint32_t i = 0; i < log.use.size(); i++) {
      const bool is_log = log.use[i] == SegmentUse::kLog;
      if (!is_log && named_.count(i) == 0) continue;
      out.needed = i + 1;
      if (i >= target) (is_log ? out.log : out.data)++;
    }
    return out;
  }

 private:
  std::set<uint32_t> named_;
};

Status check_target(const Options& options, const CheckReport& report, const Uses& uses,
                    uint32_t target) {
  const char* const path = options.image.cache.c_str();
  const InUse in_use = uses.behind(report.log, target);
  if (in_use.all() > 0)
    return make_error(
        EINVAL,
        "cache device %s: --size %s leaves %s of 16 MiB, and of those behind them %u are in use "
        "(%u by the log, %u by keys): --size %llu or more, or %s",
        path, options.size->c_str(), plural(target, "segment").c_str(), in_use.all(), in_use.log,
        in_use.data,
        static_cast<unsigned long long>(
            std::max(bytes_of_segments(in_use.needed), media::kMinDeviceBytes)),
        in_use.log > 0
            ? "write it back (pcachectl writeback) and format a smaller one"
            : "let go what is cached: while it is attached, pcachectl drain, set gc_percent 0");
  const bool smaller = target < report.frame.frame.seg_num;
  if (smaller && report.recovered->dirty_tail_guessed)
    return make_error(EUCLEAN,
                      "cache device %s: dirty_tail's newest record is lost: attach it once before "
                      "it is made smaller",
                      path);
  return {};
}

// To `target` segments, more or fewer, and what an interrupted resize has begun ends on the way.
Status change(const Options& options, Pmem& pmem, uint32_t target) {
  if (auto ready = pmem.make_ready(true); !ready) return ready;
  pmem.keep();
  auto loaded = load_frame(pmem, Log());
  if (!loaded) return loaded.error();
  DeviceFrame& frame = loaded.value();
  const auto sync = [&] { return sync_cache(options.image.cache, pmem); };
  if (auto synced = sync(); !synced) return synced;  // the file's new length
  const uint32_t least = std::min(target, frame.info.n_segs);
  if (target < frame.seg_num)
    if (auto shrunk = shrink_cache(pmem, frame, least, sync); !shrunk) return shrunk;
  if (frame.info.n_segs == target) return {};
  return grow_cache(pmem, frame, target, sync);
}

// What an earlier try has done that was killed then is seen, and need not be durable.
Status keep_as_it_is(const Options& options, Pmem& pmem, const CheckReport& report) {
  persist_frame(pmem, report.frame.frame.chain);
  return sync_cache(options.image.cache, pmem);
}

// A file gives its space back. What it lacks now the cache no longer names, durably.
Status cut_file(const Options& options, const struct stat& before, bool* cut) {
  if (options.size_bytes == 0 || !S_ISREG(before.st_mode) ||
      static_cast<uint64_t>(before.st_size) <= options.size_bytes)
    return {};
  const char* const path = options.image.cache.c_str();
  *cut = truncate(path, static_cast<off_t>(options.size_bytes)) == 0;
  if (!*cut) return error_errno(errno, "cache device %s: the file cannot be cut", path);
  return {};
}

Status take_size(Options* options) {
  if (!options->size) return {};
  const auto bytes = size_from_text(*options->size);
  if (!bytes)
    return make_error(EINVAL,
                      "--size %s: expected a size in bytes, such as 2G (K, M, G, T, P; powers of "
                      "1024)",
                      options->size->c_str());
  options->size_bytes = static_cast<uint64_t>(*bytes);
  if (options->size_bytes < media::kMinDeviceBytes)
    return make_error(EINVAL, "--size %s: a pcache has 512 MiB or more", options->size->c_str());
  return {};
}

uint64_t bytes_in(const Json& answer, const char* name) {
  const auto at = answer.find(name);
  return at != answer.end() && at->is_number_unsigned() ? at->get<uint64_t>() : 0;
}

int run_live(const Options& options, ControlClient* client) {
  const std::string& path = options.image.cache;
  // The file system may take long to make room.
  const auto grown =
      ask_json(client, ("resize " + std::to_string(options.size_bytes)).c_str(), kNoTimeout);
  if (!grown)
    return fail(make_error(grown.error().code, "cache device %s: is attached: %s", path.c_str(),
                           grown.error().text.c_str()));
  const uint64_t now = bytes_in(grown.value(), "segments");
  const uint64_t before = bytes_in(grown.value(), "before");
  if (options.image.json)
    print(grown.value());
  else if (now != before)
    printf("%s: %" PRIu64 " segments of 16 MiB (was %" PRIu64 "), in use from now on\n",
           path.c_str(), now, before);
  else
    printf("%s: has %" PRIu64 " segments of 16 MiB already, nothing was changed\n", path.c_str(),
           now);
  return kDone;
}

int run(Options& options) {
  if (const auto taken = take_size(&options); !taken) return fail(taken.error());
  const Image& image = options.image;
  auto client = find_live(image.cache);
  if (!client) return fail(client.error());
  if (client.value()) return run_live(options, &*client.value());
  auto pmem = open_to_resize(options);
  if (!pmem) return fail(pmem.error());
  struct stat st;
  if (stat(image.cache.c_str(), &st) != 0)
    return fail(error_errno(errno, "cache device %s", image.cache.c_str()));
  Uses uses;
  CheckOptions checking;
  checking.ignore_identity = true;
  checking.visit = [&](const SurveyedKset& kset) { uses.add(kset); };
  const CheckReport report = check_image(*pmem.value(), checking);
  if (const auto sound = require_attachable(image, report); !sound) return fail(sound.error());
  const uint64_t bytes = pmem.value()->size_when_ready();
  const uint32_t target = segments_of_device(options.size_bytes ? options.size_bytes : bytes);
  const uint32_t before = report.frame.frame.info.n_segs;
  if (const auto fits = check_target(options, report, uses, target); !fits)
    return fail(fits.error());
  const bool is_begun = target < report.frame.frame.seg_num;  // to shrink, by an earlier try
  const auto done = target != before || is_begun ? change(options, *pmem.value(), target)
                                                 : keep_as_it_is(options, *pmem.value(), report);
  if (!done) return fail(done.error());
  bool cut = false;
  if (const auto done = cut_file(options, st, &cut); !done) return fail(done.error());
  const char* const path = image.cache.c_str();
  if (image.json)
    print({{"segments", target}, {"before", before}});
  else if (target != before)
    printf("%s: %u segments of 16 MiB (was %u)\n", path, target, before);
  else
    printf("%s: has %u segments of 16 MiB already, %s\n", path, before,
           is_begun ? "an interrupted resize was ended"
           : cut    ? "the file was cut"
                    : "nothing was changed");
  const std::string unused = unused_text(cut ? options.size_bytes : bytes, target);
  if (!unused.empty() && target == media::kMaxSegments)
    fprintf(stderr, "pcachectl: %s\n", unused.c_str());
  return kDone;
}

int run_resize_backing(const Image& image) {
  auto client = find_live(image.cache);
  if (!client) return fail(client.error());
  if (!client.value())
    return fail(make_error(ENOENT,
                           "%s: no process that can be asked has it attached; the next attach uses "
                           "all of its backing device, of a file after pcachectl identity set",
                           image.cache.c_str()));
  const auto resized = ask_json(&*client.value(), "resize-backing");
  if (!resized) return fail(resized.error());
  const auto bytes = [&](const char* name) { return bytes_in(resized.value(), name); };
  if (image.json)
    print(resized.value());
  else if (bytes("before") != bytes("bytes"))
    printf("the backing device has %" PRIu64 " bytes (was %" PRIu64 "): all of it is used\n",
           bytes("bytes"), bytes("before"));
  else
    printf("the backing device has %" PRIu64 " bytes, as before: nothing was changed\n",
           bytes("bytes"));
  return kDone;
}

}  // namespace

void add_resize(CLI::App& app, int* exit_code) {
  auto* command =
      app.add_subcommand("resize",
                         "Makes a cache larger or smaller, with all that it holds, dirty data too; "
                         "larger also while it is attached, smaller only if the "
                         "segments that go are free. A crash leaves the old size or the new one");
  command->footer(
      "Examples:\n  pcachectl resize cache.img --size 2G\n  pcachectl resize /dev/dax0.0");
  auto options = std::make_shared<Options>();
  add_image(command, &options->image, Backing::kNone);
  command->add_option(
      "--size", options->size,
      "the new size (2G); a file is extended or cut to it; default: all that the file "
      "or device has");
  command->callback([=] { *exit_code = run(*options); });

  auto* backing = app.add_subcommand(
      "resize-backing", "Has an attached cache use all of its backing device, which has grown");
  backing->footer("Examples:\n  lvextend -L +10G vg/disk && pcachectl resize-backing /dev/pmem0");
  auto image = std::make_shared<Image>();
  add_image(backing, image.get(), Backing::kNone);
  backing->callback([=] { *exit_code = run_resize_backing(*image); });
}

}  // namespace pcache::ctl
