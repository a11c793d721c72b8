// SPDX-License-Identifier: GPL-2.0-or-later
// pcachectl status and table: the state of an image, or of a cache that is attached, and the table
// line for the kernel target.
#include <algorithm>
#include <charconv>
#include <cinttypes>
#include <filesystem>

#include "blockdev/nbd_uri.h"
#include "ctl/common.h"
#include "ctl/live.h"

namespace pcache::ctl {

namespace {

std::string tail_text(const TailView& tail) {
  return tail.pos ? position_text(*tail.pos) : std::string("?");
}

// The kernel target's line; with 0 sectors if the backing device's size is not known.
std::string status_line(const CheckReport& report) {
  const CacheInfoFields& info = report.frame.frame.info;
  char line[256];
  snprintf(line, sizeof line, "0 %" PRIu64 " pcache %x %u %u %u %u %x %s %s %s",
           report.logical_bytes / kSectorBytes, report.frame.superblock.flags,
           report.frame.frame.seg_num, info.n_segs, report.log.segments_in_use(), info.gc_percent,
           make_cache_info(info).flags, position_text(report.log.head).c_str(),
           tail_text(report.frame.dirty_tail).c_str(), tail_text(report.frame.key_tail).c_str());
  return line;
}

void print_unused(const FrameSurvey& frame) {
  if (!frame.unused.empty()) printf("unused:    %s\n", frame.unused.c_str());
}

void print_json(Json json, const FrameSurvey& frame) {
  if (!frame.unused.empty()) json["unused"] = frame.unused;
  print(json);
}

void print_text(const Image& image, const CheckReport& report) {
  const FrameSurvey& frame = report.frame;
  const CacheInfoFields& info = frame.frame.info;
  const LogSurvey& log = report.log;
  printf("cache:     %s, %u segments of 16 MiB, data_crc %s, gc_percent %u, %s\n",
         image.cache.c_str(), info.n_segs, info.data_crc ? "on" : "off", info.gc_percent,
         answers_of(info.mode).name);
  print_unused(frame);
  if (frame.identity)
    printf("backing:   \"%s\", %s\n", frame.identity->backing,
           bytes_text(frame.identity->backing_bytes).c_str());
  else
    printf("backing:   not recorded (no identity block)\n");
  const auto log_segments = std::count(log.use.begin(), log.use.end(), SegmentUse::kLog);
  printf("segments:  %u in use (%u log, %u data), %u free\n", log.segments_in_use(),
         static_cast<uint32_t>(log_segments),
         log.segments_in_use() - static_cast<uint32_t>(log_segments),
         info.n_segs - log.segments_in_use());
  printf("log:       key_tail %s, dirty_tail %s, key_head %s; %" PRIu64 " ksets, %" PRIu64
         " live keys\n",
         tail_text(frame.key_tail).c_str(), tail_text(frame.dirty_tail).c_str(),
         position_text(log.head).c_str(), log.ksets, log.keys);
  printf("dirty:     %s in %" PRIu64 " keys of %" PRIu64 " ksets\n",
         bytes_text(report.dirty_bytes).c_str(), log.dirty_keys, log.dirty_ksets);
  printf("status:    %s\n", status_line(report).c_str());
}

Json to_json(const CheckReport& report) {
  const FrameSurvey& frame = report.frame;
  const CacheInfoFields& info = frame.frame.info;
  const LogSurvey& log = report.log;
  Json backing = nullptr;
  if (frame.identity)
    backing = {{"identity", frame.identity->backing}, {"bytes", frame.identity->backing_bytes}};
  return {{"line", status_line(report)},
          {"attaches", report.attaches},
          {"data_crc", info.data_crc},
          {"gc_percent", info.gc_percent},
          {"cache_mode", answers_of(info.mode).name},
          {"backing", backing},
          {"logical_bytes", report.logical_bytes},
          {"segments", {{"total", info.n_segs}, {"used", log.segments_in_use()}}},
          {"log",
           {{"key_head", position_text(log.head)},
            {"dirty_tail", tail_text(frame.dirty_tail)},
            {"key_tail", tail_text(frame.key_tail)},
            {"ksets", log.ksets},
            {"keys", log.keys},
            {"dead_keys", log.dead_keys}}},
          {"dirty",
           {{"ksets", log.dirty_ksets}, {"keys", log.dirty_keys}, {"bytes", report.dirty_bytes}}}};
}

constexpr uint64_t kMostWatchSeconds = 86400;

struct StatusOptions {
  Image image;
  bool line = false;
  bool watch = false;
  std::string interval = "1";  // as given
  std::optional<std::string> count;
};

Result<uint64_t> number(const char* option, const std::string& text, uint64_t least,
                        uint64_t most) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error == std::errc() && end == text.data() + text.size() && value >= least && value <= most)
    return value;
  return make_error(EINVAL, "%s: expected a number from %llu to %llu, found %s", option,
                    static_cast<unsigned long long>(least), static_cast<unsigned long long>(most),
                    text.empty() ? "nothing" : text.c_str());
}

int watch_status(const StatusOptions& options) {
  if (options.line)
    return fail(make_error(EINVAL,
                           "status: --line and --watch exclude each other; see pcachectl "
                           "status --help"));
  const auto interval = number("--interval", options.interval, 1, kMostWatchSeconds);
  if (!interval) return fail(interval.error());
  const auto count = !options.count ? Result<uint64_t>(UINT64_MAX)
                                    : number("--count", *options.count, 1, UINT32_MAX);
  if (!count) return fail(count.error());
  return run_watch(options.image, interval.value(), count.value());
}

int run_status(const StatusOptions& options) {
  const Image& image = options.image;
  const bool line = options.line;
  if (options.watch) return watch_status(options);
  auto live = find_live(image.cache);
  if (!live) return fail(live.error());
  if (live.value()) return run_live_status(std::move(*live.value()), image, line);
  const auto open = open_image(image);
  if (!open) return fail(open.error());
  const CheckReport& report = open.value().report;
  if (report.frame.blank) {
    if (line) return fail(require_attachable(image, report).error());
    if (image.json) {
      print_json({{"blank", true}, {"attaches", true}}, report.frame);
    } else {
      printf("cache:     %s, blank: not formatted yet\n", image.cache.c_str());
      print_unused(report.frame);
    }
    return kDone;
  }
  const auto attachable = require_attachable(image, report);
  if (attachable || report.log.walked) {
    if (image.json)
      print_json(to_json(report), report.frame);
    else if (line)
      printf("%s\n", status_line(report).c_str());
    else
      print_text(image, report);
  }
  return attachable ? kDone : fail(attachable.error());
}

int run_table(const Image& image) {
  const auto open = open_image(image);
  if (!open) return fail(open.error());
  const CheckReport& report = open.value().report;
  if (const auto usable = require_attachable(image, report); !usable) return fail(usable.error());
  if (is_nbd_uri(image.backing))
    return fail(make_error(EINVAL,
                           "--backing %s: the kernel target takes a block device: attach the "
                           "server's with nbd-client, and name that",
                           image.backing.c_str()));
  // The kernel needs absolute paths.
  const auto path = [](const std::string& p) { return std::filesystem::absolute(p).string(); };
  for (const std::string* p : {&image.cache, &image.backing})
    if (p->find_first_of(" \t\n\\") != std::string::npos)
      return fail(
          make_error(EINVAL, "%s: a table line cannot hold a path with blanks", p->c_str()));
  const std::string line =
      "0 " + std::to_string(open.value().backing->size_bytes() / kSectorBytes) + " pcache " +
      path(image.cache) + " " + path(image.backing) + " 4 cache_mode writeback data_crc " +
      (report.frame.frame.info.data_crc ? "true" : "false");
  if (image.json)
    print({{"table", line}});
  else
    printf("%s\n", line.c_str());
  return kDone;
}

}  // namespace

void add_status(CLI::App& app, int* exit_code) {
  auto* command = app.add_subcommand("status", "Prints positions, use and dirty data");
  command->footer(
      "Examples:\n  pcachectl status pmem.img --backing disk.img\n"
      "  pcachectl status /dev/pmem0 --watch --interval 5");
  auto options = std::make_shared<StatusOptions>();
  add_image(command, &options->image, Backing::kOptional);
  command->add_flag(
      "--line", options->line,
      "the kernel target's status line alone; its sectors are 0 when neither --backing nor the "
      "identity block tells the size");
  auto* watch =
      command->add_flag("--watch", options->watch,
                        "of an attached cache: a row for each interval, until it is detached");
  command->add_option("--interval", options->interval, "of --watch, in seconds; default 1")
      ->needs(watch);
  command
      ->add_option_function<std::string>(
          "--count", [=](const std::string& count) { options->count = count; },
          "of --watch: it ends after so many rows")
      ->needs(watch);
  command->callback([=] { *exit_code = run_status(*options); });
}

void add_table(CLI::App& app, int* exit_code) {
  auto* command =
      app.add_subcommand("table", "Prints the dmsetup table line for the kernel target");
  command->footer(
      "Examples:\n  pcachectl table /dev/pmem0 --backing /dev/sdb | dmsetup create cached");
  auto image = std::make_shared<Image>();
  add_image(command, image.get(), Backing::kRequired);
  command->callback([=] { *exit_code = run_table(*image); });
}

}  // namespace pcache::ctl
