// SPDX-License-Identifier: GPL-2.0-or-later
#include "ctl/common.h"
#include "inspect/rescue.h"

namespace pcache::ctl {

namespace {

struct Options {
  Image image;
  std::string to;
  bool force = false;
};

int run(const Options& options) {
  auto open = open_image(options.image);
  if (!open) return fail(open.error());
  CheckReport& report = open.value().report;
  const BackingFile& backing = *open.value().backing;
  RescueOptions rescuing;
  rescuing.to = options.to;
  rescuing.force = options.force;
  Result<RescueResult> done = [&] {
    Progress progress("export");
    rescuing.progress = [&](uint64_t at, uint64_t all) { progress(at, all); };
    return rescue(*open.value().pmem, backing, &report, rescuing);
  }();
  if (!done) return fail(done.error());
  Json lost = Json::array();
  for (const Finding& finding : report.findings.all()) {
    if (finding.severity != Severity::kLost) continue;
    lost.push_back({{"where", finding.where}, {"text", finding.text}});
    if (!options.image.json) printf("lost: %s: %s\n", finding.where.c_str(), finding.text.c_str());
  }
  const RescueResult& result = done.value();
  if (options.image.json)
    print({{"to", options.to},
           {"bytes", backing.size_bytes},
           {"cached_bytes", result.cached_bytes},
           {"dirty_bytes", result.dirty_bytes},
           {"lost_bytes", result.lost_bytes},
           {"lost", lost}});
  else
    printf("%s: %s, of them %s from the cache (%s dirty)\n", options.to.c_str(),
           bytes_text(backing.size_bytes).c_str(), bytes_text(result.cached_bytes).c_str(),
           bytes_text(result.dirty_bytes).c_str());
  return report.exit_code() == kUntrusted ? kUntrusted : kDone;
}

}  // namespace

void add_export(CLI::App& app, int* exit_code) {
  auto* command = app.add_subcommand(
      "export", "Writes the logical device, the cache over its backing device, to a file");
  command->footer("Examples:\n  pcachectl export pmem.img --backing disk.img --to whole.img");
  auto options = std::make_shared<Options>();
  options->image.any_block = true;
  add_image(command, &options->image, Backing::kRequired);
  command->add_option("--to", options->to, "the file, which must not exist; sparse")->required();
  command->add_flag("--force", options->force,
                    "of an image that cannot be trusted take what can be had, and list what cannot "
                    "(exit status 2)");
  command->callback([=] { *exit_code = run(*options); });
}

}  // namespace pcache::ctl
