// SPDX-License-Identifier: GPL-2.0-or-later
// pcachectl set and identity: the two properties of an image that a user may choose.
#include <time.h>

#include <cinttypes>
#include <utility>

#include "ctl/common.h"
#include "ctl/content.h"
#include "ctl/live.h"
#include "segment/identity.h"

namespace pcache::ctl {

namespace {

struct SetOptions {
  Image image;
  std::string name;
  std::string value;
};

// For writing. The image must be sound, but its identity may be wrong, as the command may set it.
Result<OpenImage> open_to_change(const Image& image) {
  auto open = open_image(image, true);
  if (!open) return open;
  const CheckReport& report = open.value().report;
  const bool only_identity =
      report.recovered && !report.attaches && report.recovered->copied_kset.empty();
  if (auto usable = require_attachable(image, report); !usable && !only_identity)
    return usable.error();
  return open;
}

// The names of the options that `set` takes.
std::string settable() {
  std::string names;
  for (const OptionEntry& entry : option_table())
    if (entry.in_ctl("set") == entry.name)
      names += (names.empty() ? "" : ", ") + std::string(entry.name);
  return names;
}

// Returns what was there.
Json change(const pcache_options& given, CacheInfoFields* info) {
  if (given.cache_mode == PCACHE_FROM_MEDIA)
    return std::exchange(info->gc_percent, static_cast<uint32_t>(given.gc_percent));
  const auto mode = static_cast<CacheMode>(given.cache_mode);
  return answers_of(std::exchange(info->mode, mode)).name;
}

int run_set(const SetOptions& options) {
  auto live = find_live(options.image.cache);
  if (!live) return fail(live.error());
  if (live.value())
    return run_live_set(std::move(*live.value()), options.image, options.name, options.value);
  const OptionEntry* entry = find_option(options.name);
  if (!entry || entry->in_ctl("set") != options.name)
    return fail(make_error(EINVAL, "set: %s is not known; %s is", options.name.c_str(),
                           settable().c_str()));
  pcache_options given;
  init_options(&given, sizeof given);
  if (auto set = set_option(&given, entry->name, options.value.c_str()); !set)
    return fail(set.error());
  if (given.gc_percent == PCACHE_FROM_MEDIA && given.cache_mode == PCACHE_FROM_MEDIA)
    return fail(make_error(EINVAL, "set: %s=%s is what the media says already",
                           options.name.c_str(), options.value.c_str()));
  auto open = open_to_change(options.image);
  if (!open) return fail(open.error());
  Pmem& pmem = *open.value().pmem;
  auto frame = load_frame(pmem, Log());
  if (!frame) return fail(frame.error());
  const Json before = change(given, &frame.value().info);
  if (const auto written = change_cache_info(pmem, frame.value()); !written)
    return fail(written.error());
  if (const auto synced = sync_cache(options.image.cache, pmem); !synced)
    return fail(synced.error());
  const Json now = change(given, &frame.value().info);
  const auto text = [](const Json& value) {
    return value.is_string() ? value.get<std::string>() : value.dump();
  };
  if (options.image.json)
    print({{options.name, now}, {"before", before}});
  else
    printf("%s: %s (was %s)\n", options.name.c_str(), text(now).c_str(), text(before).c_str());
  return kDone;
}

std::string uuid_text(const uint8_t (&uuid)[16]) {
  std::string text;
  char hex[3];
  for (int i = 0; i < 16; i++) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    snprintf(hex, sizeof hex, "%02x", uuid[i]);
    text += hex;
  }
  return text;
}

// `overwrote`: the content that was there before; empty: none.
int show_identity(const Image& image, const std::string& overwrote = {}) {
  auto pmem = open_cache(image.cache, false);
  if (!pmem) return fail(pmem.error());
  if (pmem.value()->size_bytes() < media::kMinDeviceBytes)
    return fail(make_error(EUCLEAN, "cache device %s: has %s, a pcache has 512 MiB or more",
                           image.cache.c_str(), bytes_text(pmem.value()->size_bytes()).c_str()));
  const auto identity = load_identity(*pmem.value());
  if (!identity) return fail(identity.error());
  if (!identity.value()) {
    if (image.json)
      print({{"identity", nullptr}});
    else
      printf("no identity block: it says of no backing device that it belongs to it\n");
    return kDone;
  }
  const media::Identity& block = *identity.value();
  if (image.json) {
    Json json = {{"uuid", uuid_text(block.uuid)},
                 {"backing", block.backing},
                 {"backing_bytes", block.backing_bytes},
                 {"created_unix_s", block.created_unix_s}};
    if (!overwrote.empty()) json["overwrote"] = overwrote;
    print(json);
    return kDone;
  }
  const time_t created = static_cast<time_t>(block.created_unix_s);
  struct tm utc = {};
  char when[32] = "?";
  if (gmtime_r(&created, &utc)) strftime(when, sizeof when, "%Y-%m-%d %H:%M:%S UTC", &utc);
  printf("uuid:     %s\nbacking:  \"%s\", %" PRIu64 " bytes\nwritten:  %s\n",
         uuid_text(block.uuid).c_str(), block.backing, block.backing_bytes, when);
  if (!overwrote.empty())
    printf("overwrote the first %zu bytes of what was not ours: %s\n", sizeof block,
           overwrote.c_str());
  return kDone;
}

// Empty: the first 4 KiB are empty or ours.
std::string foreign_first_page(const std::string& path, const Pmem& pmem) {
  if (first_page(pmem) != FirstPage::kForeign) return {};
  const auto known = foreign_content(path, media::kSuperblockOff);
  return known && !known.value().empty() ? known.value() : "something unknown";
}

int set_identity(const Image& given, bool force) {
  Image image = given;
  image.ignore_identity = true;
  auto open = open_to_change(image);
  if (!open) return fail(open.error());
  const CheckReport& report = open.value().report;
  const BackingIdentity identity = identity_of(*open.value().backing);
  const bool other = report.frame.identity && !compare_identity(*report.frame.identity, identity) &&
                     !has_grown(*report.frame.identity, identity);
  if (other && report.dirty_bytes > 0 && !force)
    return fail(make_error(
        EXDEV,
        "cache device %s: holds %s of dirty data of backing device \"%s\" of %" PRIu64
        " bytes, which would go to \"%s\" of %" PRIu64 " bytes; --force if that is a copy of it",
        image.cache.c_str(), bytes_text(report.dirty_bytes).c_str(), report.frame.identity->backing,
        report.frame.identity->backing_bytes, identity.text.c_str(), identity.size_bytes));
  if (const auto synced = open.value().backing->sync_size(); !synced) return fail(synced.error());
  const std::string overwrites = foreign_first_page(image.cache, *open.value().pmem);
  const auto now = static_cast<uint64_t>(time(nullptr));
  if (const auto written = write_identity(*open.value().pmem, identity, now); !written)
    return fail(written.error());
  if (const auto synced = sync_cache(image.cache, *open.value().pmem); !synced)
    return fail(synced.error());
  open.take();  // closed: it is read again
  return show_identity(given, overwrites);
}

}  // namespace

void add_set(CLI::App& app, int* exit_code) {
  auto* command = app.add_subcommand(
      "set", "Changes a setting: " + settable() +
                 "; of a cache that is attached, also what is not kept on the media");
  command->footer(
      "Examples:\n  pcachectl set pmem.img gc_percent 50\n"
      "  pcachectl set /dev/pmem0 dirty_high_percent 40     while it is attached");
  auto options = std::make_shared<SetOptions>();
  add_image(command, &options->image, Backing::kNone);
  command->add_option("NAME", options->name, settable())->required();
  command->add_option("VALUE", options->value, "its value")->required();
  command->callback([=] { *exit_code = run_set(*options); });
}

void add_identity(CLI::App& app, int* exit_code) {
  auto* command = app.add_subcommand(
      "identity", "Shows or sets the identity block: which backing device the cache belongs to");
  command->footer(
      "Examples:\n  pcachectl identity show pmem.img\n  pcachectl identity set copy.img --backing "
      "copy-of-disk.img");
  command->require_subcommand(1);
  auto* show = command->add_subcommand("show", "Prints it");
  auto shown = std::make_shared<Image>();
  add_image(show, shown.get(), Backing::kNone);
  show->callback([=] { *exit_code = show_identity(*shown); });
  auto* set = command->add_subcommand("set", "Writes it anew, for this backing device");
  auto image = std::make_shared<Image>();
  add_image(set, image.get(), Backing::kNone);
  set->add_option("--backing", image->backing,
                  "the backing device, or a file that is one; only read")
      ->required();
  auto force = std::make_shared<bool>(false);
  set->add_flag("--force", *force, "also while the cache holds dirty data of another one");
  set->callback([=] { *exit_code = set_identity(*image, *force); });
}

}  // namespace pcache::ctl
