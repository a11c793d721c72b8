// SPDX-License-Identifier: GPL-2.0-or-later
// pcachectl set and identity: the two things of an image that are a user's to choose.
#include <time.h>

#include <cinttypes>

#include "ctl/common.h"
#include "segment/identity.h"

namespace pcache::ctl {

namespace {

struct SetOptions {
  Image image;
  std::string name;
  int64_t value = 0;
};

// For writing, as it is after a check for reading.
Result<std::unique_ptr<Pmem>> open_checked(const Image& image) {
  {
    const auto open = open_image(image);
    if (!open) return open.error();
    const CheckReport& report = open.value().report;
    // The identity is what may be about to be put right.
    const bool only_identity = report.recovered && !report.attaches;
    if (auto usable = require_attachable(image, report); !usable && !only_identity)
      return usable.error();
  }
  return open_cache(image.cache, true);
}

int run_set(const SetOptions& options) {
  if (options.name != "gc_percent")
    return fail(make_error(EINVAL, "set: %s is not known; gc_percent is", options.name.c_str()));
  if (options.value < 0 || options.value > media::kGcPercentMax)
    return fail(make_error(EINVAL, "set: gc_percent is %" PRId64 ", expected 0..%u", options.value,
                           media::kGcPercentMax));
  auto pmem = open_checked(options.image);
  if (!pmem) return fail(pmem.error());
  auto frame = load_frame(*pmem.value(), Log());
  if (!frame) return fail(frame.error());
  const uint32_t before = frame.value().info.gc_percent;
  frame.value().info.gc_percent = static_cast<uint32_t>(options.value);
  write_cache_info(*pmem.value(), frame.value());
  pmem.take().reset();
  if (const auto synced = sync_cache(options.image.cache); !synced) return fail(synced.error());
  if (options.image.json)
    print({{"gc_percent", options.value}, {"before", before}});
  else
    printf("gc_percent: %" PRId64 " (was %u)\n", options.value, before);
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

int show_identity(const Image& image) {
  auto pmem = open_cache(image.cache, false);
  if (!pmem) return fail(pmem.error());
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
    print({{"uuid", uuid_text(block.uuid)},
           {"backing", block.backing},
           {"backing_bytes", block.backing_bytes},
           {"created_unix_s", block.created_unix_s}});
    return kDone;
  }
  const time_t created = static_cast<time_t>(block.created_unix_s);
  struct tm utc = {};
  char when[32] = "?";
  if (gmtime_r(&created, &utc)) strftime(when, sizeof when, "%Y-%m-%d %H:%M:%S UTC", &utc);
  printf("uuid:     %s\nbacking:  \"%s\", %" PRIu64 " bytes\nwritten:  %s\n",
         uuid_text(block.uuid).c_str(), block.backing, block.backing_bytes, when);
  return kDone;
}

int set_identity(const Image& given) {
  Image image = given;
  image.ignore_identity = true;
  auto backing = open_backing(image.backing);
  if (!backing) return fail(backing.error());
  const BackingIdentity identity = identity_of(backing.value());
  auto pmem = open_checked(image);
  if (!pmem) return fail(pmem.error());
  write_identity(*pmem.value(), identity, static_cast<uint64_t>(time(nullptr)));
  pmem.take().reset();
  if (const auto synced = sync_cache(image.cache); !synced) return fail(synced.error());
  return show_identity(given);
}

}  // namespace

void add_set(CLI::App& app, int* exit_code) {
  auto* command = app.add_subcommand("set", "Changes a persistent setting: gc_percent (0..90)");
  command->footer("Examples:\n  pcachectl set pmem.img gc_percent 50");
  auto options = std::make_shared<SetOptions>();
  add_image(command, &options->image, Backing::kNone);
  command->add_option("NAME", options->name, "gc_percent")->required();
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
  set->add_option("--backing", image->backing, "the backing device; only read")->required();
  set->callback([=] { *exit_code = set_identity(*image); });
}

}  // namespace pcache::ctl
