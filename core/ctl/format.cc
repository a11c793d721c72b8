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
  TableOptions table;
  bool force = false;
  // Set from the table of options when the command runs.
  uint64_t size_bytes = 0;
  bool data_crc = false;
  uint32_t gc_percent = media::kGcPercentDefault;
  CacheMode mode = CacheMode::kWriteback;
};

Status take_from_table(Options* options) {
  const auto given = options->table.take();
  if (!given) return given.error();
  options->size_bytes = static_cast<uint64_t>(given.value().cache_size);
  options->data_crc = given.value().data_crc == 1;  // a new cache has no media to ask
  if (given.value().gc_percent != PCACHE_FROM_MEDIA)
    options->gc_percent = static_cast<uint32_t>(given.value().gc_percent);
  if (given.value().cache_mode != PCACHE_FROM_MEDIA)
    options->mode = static_cast<CacheMode>(given.value().cache_mode);
  return {};
}

constexpr uint64_t kLookedAtBytes = 1 << 20;  // file systems that libblkid cannot see there: devdax

// Describes what a format would destroy; empty: nothing.
Result<std::string> content(const std::string& path, Pmem& pmem) {
  auto foreign = foreign_content(path);
  if (!foreign || !foreign.value().empty()) return foreign;
  const CheckReport report = check_image(pmem, {});
  if (report.frame.other_version) return std::string("a pcache of another version of the format");
  if (report.frame.superblock.magic == media::kSuperblockMagic)
    return "a pcache with " + plural(report.log.keys, "live key") + " and " +
           bytes_text(report.dirty_bytes) + " of dirty data";
  std::vector<char> head(std::min(kLookedAtBytes, pmem.size_bytes()));
  if (!pmem.load(head.data(), MediaOff{0}, head.size()))
    return make_error(EIO, "cache device %s: media error in its first %zu bytes", path.c_str(),
                      head.size());
  const auto found = std::find_if(head.begin(), head.end(), [](char c) { return c != 0; });
  if (found == head.end()) return std::string();
  return "something unknown, from byte " + std::to_string(found - head.begin()) + " on";
}

Status refuse_content(const Options& options, Pmem& pmem) {
  if (options.force) return {};
  const std::string& path = options.image.cache;
  const auto there = content(path, pmem);
  if (!there) return there.error();
  if (there.value().empty()) return {};
  return make_error(EEXIST, "cache device %s: holds %s; --force to destroy it", path.c_str(),
                    there.value().c_str());
}

// With the old identity the new cache would refuse every other backing device.
Status write_identity_of(Pmem& pmem, const std::optional<BackingIdentity>& backing) {
  if (!backing) return erase_identity(pmem);
  return write_identity(pmem, *backing, static_cast<uint64_t>(time(nullptr)));
}

// Creates the file, or makes it longer, if that is asked for.
Result<std::unique_ptr<Pmem>> open_to_format(const Options& options) {
  struct stat st;
  const bool device = stat(options.image.cache.c_str(), &st) == 0 && S_ISBLK(st.st_mode);
  if (device && options.size_bytes > 0)
    return make_error(EINVAL, "cache device %s: a device cannot be made larger; leave --size out",
                      options.image.cache.c_str());
  PmemOptions opening;
  opening.block_device = true;
  opening.path = options.image.cache;
  opening.emulate = true;
  opening.create_bytes = options.size_bytes;
  return Pmem::open(opening, Log());
}

int run(Options& options) {
  if (const auto taken = take_from_table(&options); !taken) return fail(taken.error());
  const std::string& path = options.image.cache;
  std::optional<BackingIdentity> identity;
  if (!options.image.backing.empty()) {
    auto backing = open_backing(options.image.backing, path);
    if (!backing) return fail(backing.error());
    if (const auto synced = backing.value().sync_size(); !synced) return fail(synced.error());
    identity = identity_of(backing.value());
  }
  struct stat st;
  const bool there = stat(path.c_str(), &st) == 0;
  if (!there && options.size_bytes == 0)
    return fail(error_errno(ENOENT, "cache device %s (--size makes a file)", path.c_str()));
  if (there && !(S_ISREG(st.st_mode) && st.st_size == 0)) {
    // Checks the content before the file is made longer.
    auto as_it_is = open_cache(path, false);
    if (!as_it_is) return fail(as_it_is.error());
    if (const auto blank = refuse_content(options, *as_it_is.value()); !blank)
      return fail(blank.error());
  }
  auto pmem = open_to_format(options);
  if (!pmem) return fail(pmem.error());
  if (pmem.value()->size_bytes() < media::kMinDeviceBytes)
    return fail(make_error(EINVAL, "cache device %s: has %s, a pcache has 512 MiB or more",
                           path.c_str(), bytes_text(pmem.value()->size_bytes()).c_str()));
  if (const auto blank = refuse_content(options, *pmem.value()); !blank) return fail(blank.error());
  const uint32_t segments = segments_of_device(pmem.value()->size_bytes());
  // Comes before the format, which takes time on a large device.
  if (const auto unused = unused_text(pmem.value()->size_bytes(), segments); !unused.empty())
    fprintf(stderr, "pcachectl: %s\n", unused.c_str());
  FormatOptions format;
  format.data_crc = options.data_crc;
  format.gc_percent = options.gc_percent;
  format.mode = options.mode;
  Status made = format_device(*pmem.value(), format);
  if (made) made = write_identity_of(*pmem.value(), identity);
  if (!made)
    return fail(make_error(made.error().code, "cache device %s: %s", path.c_str(),
                           made.error().text.c_str()));
  if (const auto synced = sync_cache(path, *pmem.value()); !synced) return fail(synced.error());
  if (options.image.json)
    print({{"segments", segments},
           {"data_crc", options.data_crc},
           {"gc_percent", options.gc_percent},
           {"cache_mode", answers_of(options.mode).name}});
  else
    printf("%s: formatted, %u segments of 16 MiB, data_crc %s, gc_percent %u, %s\n", path.c_str(),
           segments, options.data_crc ? "on" : "off", options.gc_percent,
           answers_of(options.mode).name);
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
                      "records that the cache belongs to this backing device (or file); else "
                      "the first attach does");
  options->table.add(command);
  command->add_flag("--force", options->force, "destroy what is there");
  command->callback([=] { *exit_code = run(*options); });
}

}  // namespace pcache::ctl
