// SPDX-License-Identifier: GPL-2.0-or-later
#include <cinttypes>

#include "ctl/common.h"

namespace pcache::ctl {

namespace {

// A sound cache is not called "clean", as that means that it has nothing to write back.
std::string verdict(const CheckReport& report) {
  if (!report.attaches) return "it cannot be attached";
  const std::string dirty =
      report.dirty_bytes > 0 ? bytes_text(report.dirty_bytes) + " dirty" : "nothing dirty";
  switch (report.findings.worst()) {
    case Severity::kNote:
      return report.frame.blank ? "sound, blank" : "sound, " + dirty;
    case Severity::kFinding:
      return "findings, nothing is lost: it attaches; " + dirty;
    case Severity::kLost:
      return report.trusted_but_for_data()
                 ? "data is lost; it attaches, and reads of that data fail"
                 : "data is lost or not what it should be; it attaches all the same";
  }
  return "?";
}

void print_text(const CheckReport& report) {
  for (const Finding& finding : report.findings.all())
    printf("%s: %s: %s\n", severity_name(finding.severity), finding.where.c_str(),
           finding.text.c_str());
  if (report.findings.omitted() > 0)
    printf("and %" PRIu64 " more of the same kinds\n", report.findings.omitted());
  if (!report.frame.blank && report.log.walked)
    printf("%u segments, %u in use; %" PRIu64 " ksets, %" PRIu64 " live keys\n",
           report.frame.frame.info.n_segs, report.log.segments_in_use(), report.log.ksets,
           report.log.keys);
  if (!report.frame.blank && report.logical_bytes == 0)
    printf("without --backing, ranges were not checked against the backing device's size\n");
  printf("%s\n", verdict(report).c_str());
}

void print_json(const CheckReport& report) {
  Json findings = Json::array();
  for (const Finding& f : report.findings.all())
    findings.push_back({{"severity", severity_name(f.severity)},
                        {"code", f.code},
                        {"where", f.where},
                        {"text", f.text}});
  print({{"exit_code", report.exit_code()},
         {"verdict", verdict(report)},
         {"attaches", report.attaches},
         {"blank", report.frame.blank},
         {"segments", report.frame.frame.info.n_segs},
         {"segments_in_use", report.log.segments_in_use()},
         {"ksets", report.log.ksets},
         {"keys", report.log.keys},
         {"dead_keys", report.log.dead_keys},
         {"dirty_bytes", report.dirty_bytes},
         {"lost_bytes", report.log.lost.bytes()},
         {"findings", findings},
         {"findings_omitted", report.findings.omitted()}});
}

int run(const Image& image) {
  const auto open = open_image(image);
  if (!open) return fail(open.error());
  const CheckReport& report = open.value().report;
  image.json ? print_json(report) : print_text(report);
  return report.exit_code();
}

}  // namespace

void add_check(CLI::App& app, int* exit_code) {
  auto* command = app.add_subcommand("check", "Checks everything in an image; writes nothing");
  command->footer("Examples:\n  pcachectl check /dev/dax0.0 --backing /dev/sdb");
  auto image = std::make_shared<Image>();
  image->scan_media = true;
  add_image(command, image.get(), Backing::kOptional);
  command->callback([=] { *exit_code = run(*image); });
}

}  // namespace pcache::ctl
