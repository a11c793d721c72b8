// SPDX-License-Identifier: GPL-2.0-or-later
// pcachectl resize: makes a formatted cache larger, offline, and keeps its content.
#include <sys/stat.h>

#include "ctl/common.h"
#include "segment/grow.h"

namespace pcache::ctl {

namespace {

struct Options {
  Image image;
  std::optional<std::string> size;
  uint64_t size_bytes = 0;  // from the option; 0: the device's size
};

// Until it is known that a file can grow, it is opened only to look.
Result<std::unique_ptr<Pmem>> open_to_grow(const Options& options) {
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

Status check_target(const Options& options, const CheckReport& report, uint32_t target) {
  const uint32_t now = report.frame.frame.info.n_segs;
  const uint32_t begun = report.frame.frame.seg_num;
  if (target > now && target < begun)
    return make_error(
        EINVAL,
        "cache device %s: a resize to %u segments was interrupted (it has %u): "
        "--size %llu or more, or leave it out",
        options.image.cache.c_str(), begun, now,
        static_cast<unsigned long long>(media::kSegmentsOff + begun * media::kSegmentBytes));
  if (target >= now) return {};
  return make_error(EINVAL,
                    "cache device %s: has %s of 16 MiB, --size %s is %u: a cache cannot be made "
                    "smaller, as any segment may hold data; write it back (pcachectl writeback) "
                    "and format a smaller one",
                    options.image.cache.c_str(), plural(now, "segment").c_str(),
                    bytes_text(options.size_bytes).c_str(), target);
}

Status grow(const Options& options, Pmem& pmem, uint32_t target) {
  if (auto ready = pmem.make_ready(true); !ready) return ready;
  pmem.keep();
  auto frame = load_frame(pmem, Log());
  if (!frame) return frame.error();
  const auto sync = [&] { return sync_cache(options.image.cache, pmem); };
  if (auto synced = sync(); !synced) return synced;  // the file's new length
  return grow_cache(pmem, frame.value(), target, sync);
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
  return {};
}

int run(Options& options) {
  if (const auto taken = take_size(&options); !taken) return fail(taken.error());
  const Image& image = options.image;
  auto pmem = open_to_grow(options);
  if (!pmem) return fail(pmem.error());
  CheckOptions checking;
  checking.ignore_identity = true;
  const CheckReport report = check_image(*pmem.value(), checking);
  if (const auto sound = require_attachable(image, report); !sound) return fail(sound.error());
  const uint64_t bytes = pmem.value()->size_when_ready();
  const uint32_t target = segments_of_device(options.size_bytes ? options.size_bytes : bytes);
  const uint32_t before = report.frame.frame.info.n_segs;
  if (const auto grows = check_target(options, report, target); !grows) return fail(grows.error());
  if (target > before)
    if (const auto grown = grow(options, *pmem.value(), target); !grown) return fail(grown.error());
  const std::string unused = unused_text(bytes, target);
  if (image.json)
    print({{"segments", target}, {"before", before}});
  else if (target == before)
    printf("%s: has %u segments of 16 MiB already, nothing was changed\n", image.cache.c_str(),
           before);
  else
    printf("%s: %u segments of 16 MiB (was %u)\n", image.cache.c_str(), target, before);
  if (!unused.empty() && target == media::kMaxSegments)
    fprintf(stderr, "pcachectl: %s\n", unused.c_str());
  return kDone;
}

}  // namespace

void add_resize(CLI::App& app, int* exit_code) {
  auto* command = app.add_subcommand(
      "resize",
      "Makes a cache larger, with all that it holds, dirty data too; never smaller. A crash leaves "
      "the old size or the new one");
  command->footer(
      "Examples:\n  pcachectl resize cache.img --size 2G\n  pcachectl resize /dev/dax0.0");
  auto options = std::make_shared<Options>();
  add_image(command, &options->image, Backing::kNone);
  command->add_option("--size", options->size,
                      "the new size (2G); a file is extended to it; default: all that the file or "
                      "device has");
  command->callback([=] { *exit_code = run(*options); });
}

}  // namespace pcache::ctl
