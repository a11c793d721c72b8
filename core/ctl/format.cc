// SPDX-License-Identifier: GPL-2.0-or-later
#include <sys/stat.h>
#include <time.h>

#include <algorithm>

#include "ctl/common.h"
#include "ctl/content.h"
#include "segment/identity.h"

namespace pcache::ctl {

namespace {

struct Options {
  Image image;
  uint64_t size_bytes = 0;
  bool data_crc = false, force = false;
  uint32_t gc_percent = media::kGcPercentDefault;
};

// What would be destroyed; empty when there is nothing.
Result<std::string> content(const Options& options, Pmem& pmem) {
  auto foreign = foreign_content(options.image.cache);
  if (!foreign || !foreign.value().empty()) return foreign;
  const CheckReport report = check_image(pmem, {});
  if (report.frame.superblock.magic == media::kSuperblockMagic)
    return "a pcache with " + plural(report.log.keys, "live key") + " and " +
           bytes_text(report.log.dirty_bytes) + " of dirty data";
  if (!report.frame.blank && report.frame.superblock_error)
    return "something that is not blank (" + report.frame.superblock_error->text + ")";
  char frame[media::kSegmentsOff];
  if (!pmem.load(frame, MediaOff{0}, sizeof frame))
    return make_error(EIO, "media error in the first %zu bytes", sizeof frame);
  if (std::any_of(frame, frame + sizeof frame, [](char c) { return c != 0; }))
    return std::string("something in its first 20 KiB");
  return std::string();
}

// The old identity would keep the new cache from every other backing device.
void write_identity_of(Pmem& pmem, const std::optional<BackingIdentity>& backing) {
  if (backing) {
    write_identity(pmem, *backing, static_cast<uint64_t>(time(nullptr)));
    return;
  }
  static constexpr char kZeros[4096] = {};
  pmem.store(MediaOff{0}, kZeros, sizeof kZeros);
  pmem.fence();
}

int run(const Options& options) {
  const std::string& path = options.image.cache;
  std::optional<BackingIdentity> identity;
  if (!options.image.backing.empty()) {
    auto backing = open_backing(options.image.backing);
    if (!backing) return fail(backing.error());
    identity = identity_of(backing.value());
  }
  if (options.size_bytes > 0 && options.size_bytes < media::kMinDeviceBytes)
    return fail(make_error(EINVAL, "--size: %s, a pcache has 512 MiB or more",
                           bytes_text(options.size_bytes).c_str()));
  PmemOptions opening;
  opening.path = path;
  opening.emulate = true;
  opening.create_bytes = options.size_bytes;
  struct stat st;
  if (options.size_bytes == 0 && stat(path.c_str(), &st) != 0)
    return fail(error_errno(errno, "cache device %s (--size makes a file)", path.c_str()));
  auto pmem = Pmem::open(opening, Log());
  if (!pmem) return fail(pmem.error());
  if (pmem.value()->size_bytes() < media::kMinDeviceBytes)
    return fail(make_error(EINVAL, "cache device %s: has %s, a pcache has 512 MiB or more",
                           path.c_str(), bytes_text(pmem.value()->size_bytes()).c_str()));
  const auto there = content(options, *pmem.value());
  if (!there) return fail(there.error());
  if (!there.value().empty() && !options.force) {
    fail(make_error(EEXIST, "cache device %s: holds %s; --force to destroy it", path.c_str(),
                    there.value().c_str()));
    return kFailed;
  }
  FormatOptions format;
  format.data_crc = options.data_crc;
  format.gc_percent = options.gc_percent;
  format_device(*pmem.value(), format);
  write_identity_of(*pmem.value(), identity);
  const uint32_t segments = segments_of_device(pmem.value()->size_bytes());
  pmem.take().reset();
  if (const auto synced = sync_cache(path); !synced) return fail(synced.error());
  if (options.image.json)
    print({{"segments", segments},
           {"data_crc", options.data_crc},
           {"gc_percent", options.gc_percent}});
  else
    printf("%s: formatted, %u segments of 16 MiB, data_crc %s, gc_percent %u\n", path.c_str(),
           segments, options.data_crc ? "on" : "off", options.gc_percent);
  return kDone;
}

}  // namespace

void add_format(CLI::App& app, int* exit_code) {
  auto* command = app.add_subcommand(
      "format", "Makes an empty cache; refuses whatever is not blank, and says what is there");
  command->footer("Examples:\n  pcachectl format cache.img --size 1G --data-crc");
  auto options = std::make_shared<Options>();
  add_image(command, &options->image, Backing::kNone);
  command->add_option("--backing", options->image.backing,
                      "records that the cache belongs to this backing device; else the first "
                      "attach does");
  command
      ->add_option("--size", options->size_bytes,
                   "makes the file, or extends it, to so many bytes (512M, 16G)")
      ->transform(CLI::AsSizeValue(false));
  command->add_flag("--data-crc", options->data_crc, "a crc with every key, checked on every read");
  command->add_option("--gc-percent", options->gc_percent, "0..90, default 70")
      ->check(CLI::Range(0u, media::kGcPercentMax));
  command->add_flag("--force", options->force, "destroy what is there");
  command->callback([=] { *exit_code = run(*options); });
}

}  // namespace pcache::ctl
