// SPDX-License-Identifier: GPL-2.0-or-later
// pcachectl calibrate: measures the persist methods on a device; persist=auto then uses the result.
#include <time.h>

#include "ctl/common.h"
#include "segment/identity.h"
#include "segment/persist_record.h"

namespace pcache::ctl {

namespace {

constexpr unsigned kRounds = 64;

void print_table(const Calibration& calibration, bool remembered) {
  printf("%-12s", "ns");
  for (const size_t size : Calibration::kSizes) printf(" %9s", bytes_text(size).c_str());
  printf("\n");
  const auto chosen = calibration.chosen();
  for (const Calibration::Method& method : calibration.measured) {
    printf("%-12s", method.ops->name);
    for (size_t c = 0; c < Calibration::kClasses; c++)
      printf(" %8u%c", method.ns[c], chosen[c] == method.ops ? '*' : ' ');
    printf("\n");
  }
  printf("* persist=auto, for copies of up to 1 KiB, 8 KiB, 32 KiB, and more\n");
  if (!remembered)
    printf(
        "not remembered: there is no identity block, or behind it is what cannot be read or is "
        "not ours\n");
}

Json table(const Calibration& calibration, bool remembered) {
  Json json = {{"remembered", remembered}};
  const auto chosen = calibration.chosen();
  for (size_t c = 0; c < Calibration::kClasses; c++) {
    const std::string size = std::to_string(Calibration::kSizes[c]);
    for (const Calibration::Method& method : calibration.measured)
      json["ns"][method.ops->name][size] = method.ns[c];
    json["chosen"][size] = chosen[c]->name;
  }
  return json;
}

// Needs an image that attaches; its data stays as it is. If no backing device was ever attached to
// it there is no identity block, and so no place for the record.
int run_calibrate(const Image& image) {
  auto open = open_image(image, true);
  if (!open) return fail(open.error());
  if (auto usable = require_attachable(image, open.value().report); !usable)
    return fail(usable.error());
  Pmem& pmem = *open.value().pmem;
  if (pmem.kind() == PmemKind::kBlock)
    return fail(make_error(EINVAL,
                           "cache device %s: is a block device, written through the kernel: there "
                           "is no persist method to measure",
                           image.cache.c_str()));
  const auto calibration = pmem.calibrate(kRounds);
  if (!calibration) return fail(calibration.error());
  const bool remembered =
      open.value().report.frame.identity &&
      store_calibration(pmem, calibration.value(), static_cast<uint64_t>(time(nullptr))).ok();
  if (const auto synced = sync_cache(image.cache, pmem); !synced) return fail(synced.error());
  if (image.json)
    print(table(calibration.value(), remembered));
  else
    print_table(calibration.value(), remembered);
  return kDone;
}

}  // namespace

void add_calibrate(CLI::App& app, int* exit_code) {
  auto* command = app.add_subcommand(
      "calibrate", "Measures the persist methods on this device; persist=auto then goes by it");
  command->footer("Examples:\n  pcachectl calibrate /dev/dax0.0");
  auto image = std::make_shared<Image>();
  add_image(command, image.get(), Backing::kNone);
  command->callback([=] { *exit_code = run_calibrate(*image); });
}

}  // namespace pcache::ctl
