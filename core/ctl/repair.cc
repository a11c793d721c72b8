// SPDX-License-Identifier: GPL-2.0-or-later
#include "inspect/repair.h"

#include <time.h>

#include <cinttypes>
#include <filesystem>
#include <fstream>

#include "ctl/common.h"
#include "inspect/new_file.h"

namespace pcache::ctl {

namespace {

struct Options {
  Image image;
  std::string keep, restore;
  bool yes = false;
};

std::string hex_text(const std::vector<std::byte>& bytes) {
  std::string text;
  char hex[3];
  for (const std::byte b : bytes) {
    snprintf(hex, sizeof hex, "%02x", static_cast<unsigned>(b));
    text += hex;
  }
  return text;
}

// A crc that differs for every other image, and for this one after an attach: of cache_info and the
// tails, as they are or as `plan` will leave them.
std::optional<uint32_t> frame_crc(const Pmem& pmem, const RepairPlan& plan) {
  std::vector<std::byte> frame(media::kSegmentsOff);
  if (!pmem.load(frame.data(), MediaOff{0}, frame.size())) return std::nullopt;
  for (const RepairStep& step : plan.steps)
    if (step.at.v + step.bytes.size() <= frame.size())
      std::copy(step.bytes.begin(), step.bytes.end(),
                frame.begin() + static_cast<std::ptrdiff_t>(step.at.v));
  return crc32c(media::kCrcSeed, frame.data(), frame.size());
}

// The first line names the image, before and after. Then one JSON object in each line has the
// place, its old bytes and its new bytes.
Result<std::string> copy_of(const Pmem& pmem, const RepairPlan& plan) {
  const auto before = frame_crc(pmem, {}), after = frame_crc(pmem, plan);
  if (!before || !after) return make_error(EIO, "media error in the first 20 KiB");
  const Json head = {{"repair", 1},
                     {"cache_bytes", pmem.size_bytes()},
                     {"frame_crc_before", *before},
                     {"frame_crc_after", *after}};
  std::string text = head.dump() + "\n";
  for (const RepairStep& step : plan.steps) {
    std::vector<std::byte> old(step.bytes.size());
    if (!pmem.load(old.data(), step.at, old.size())) old.clear();  // unreadable: not kept
    const Json line = {{"step", step.what},
                       {"offset", step.at.v},
                       {"before", hex_text(old)},
                       {"after", hex_text(step.bytes)}};
    text += line.dump() + "\n";
  }
  return text;
}

std::string default_copy(const std::string& cache) {
  const time_t now = time(nullptr);
  struct tm utc = {};
  char when[32] = "";
  if (gmtime_r(&now, &utc)) strftime(when, sizeof when, "%Y%m%dT%H%M%SZ", &utc);
  return std::filesystem::path(cache).filename().string() + ".before-repair-" + when + ".jsonl";
}

void print_plan(const Options& options, const RepairPlan& plan, bool done) {
  if (options.image.json) {
    Json steps = Json::array();
    for (const RepairStep& step : plan.steps)
      steps.push_back({{"what", step.what},
                       {"why", step.why},
                       {"offset", step.at.v},
                       {"bytes", step.bytes.size()}});
    print({{"steps", steps}, {"left", plan.left}, {"done", done}});
    return;
  }
  for (const RepairStep& step : plan.steps)
    printf("%s: %s (%zu bytes at %" PRIu64 ")\n", step.what.c_str(), step.why.c_str(),
           step.bytes.size(), step.at.v);
  for (const std::string& left : plan.left) printf("not repaired: %s\n", left.c_str());
  if (plan.steps.empty() && plan.left.empty()) printf("nothing to repair\n");
}

Status keep_copy(const Pmem& pmem, const RepairPlan& plan, const std::string& to) {
  auto file = NewFile::create(to);
  if (!file) return file.error();
  const auto text = copy_of(pmem, plan);
  if (!text) return text.error();
  if (auto written = file.value().write(0, text.value().data(), text.value().size()); !written)
    return written;
  return file.value().publish();
}

// Holds one lock from the check to the last step, so nobody changes the image in between.
int run_repair(const Options& options) {
  const Image& image = options.image;
  auto open = open_image(image, options.yes);
  if (!open) return fail(open.error());
  const CheckReport& report = open.value().report;
  const auto* backing = open.value().backing ? &*open.value().backing : nullptr;
  const RepairPlan plan = plan_repair(*open.value().pmem, report, backing);
  const bool doing = options.yes && !plan.steps.empty();
  const std::string keep = options.keep.empty() ? default_copy(image.cache) : options.keep;
  if (doing) {
    Pmem& pmem = *open.value().pmem;
    if (const auto kept = keep_copy(pmem, plan, keep); !kept) return fail(kept.error());
    const auto sync = [&] { return sync_cache(image.cache, pmem); };
    if (const auto applied = apply_repair(pmem, plan, sync); !applied) return fail(applied.error());
  }
  print_plan(options, plan, doing);
  if (!doing) {
    if (!image.json && !plan.steps.empty()) printf("this was the plan: --yes to do it\n");
    return report.exit_code();
  }
  if (!image.json)
    printf("%s done; what was there before is in %s (repair --restore)\n",
           plural(plan.steps.size(), "step").c_str(), keep.c_str());
  open.take();  // closed, to be checked again
  const auto after = open_image(image);
  return after ? after.value().report.exit_code() : fail(after.error());
}

std::optional<std::vector<std::byte>> bytes_of(const Json& step, const char* name) {
  if (!step.contains(name) || !step[name].is_string()) return std::nullopt;
  const std::string hex = step[name].get<std::string>();
  if (hex.size() % 2 != 0 || hex.find_first_not_of("0123456789abcdef") != std::string::npos)
    return std::nullopt;
  std::vector<std::byte> bytes;
  for (size_t i = 0; i < hex.size(); i += 2)
    bytes.push_back(static_cast<std::byte>(std::stoul(hex.substr(i, 2), nullptr, 16)));
  return bytes;
}

// A copy of another image, or of one that was attached since, would destroy this one.
Status check_head(const std::string& line, const Pmem& pmem) {
  const Json head = Json::parse(line, nullptr, false);
  const auto number = [&](const char* name) -> uint64_t {
    return head.contains(name) && head[name].is_number_unsigned() ? head[name].get<uint64_t>()
                                                                  : UINT64_MAX;
  };
  if (!head.is_object() || number("repair") != 1)
    return make_error(EINVAL, "is no copy of a repair");
  const auto now = frame_crc(pmem, {});
  const bool same = number("cache_bytes") == pmem.size_bytes() && now &&
                    (*now == number("frame_crc_after") || *now == number("frame_crc_before"));
  if (!same)
    return make_error(
        EINVAL, "is of another image, or this one has been used since: nothing is taken back");
  return {};
}

// The step that undoes the one in a line.
Result<RepairStep> taken_back(const std::string& line, const Pmem& pmem) {
  const Json step = Json::parse(line, nullptr, false);
  const bool sound =
      step.is_object() && step.contains("offset") && step["offset"].is_number_unsigned();
  const auto before = sound ? bytes_of(step, "before") : std::nullopt;
  const auto after = sound ? bytes_of(step, "after") : std::nullopt;
  if (!before || !after) return make_error(EINVAL, "is no step of a repair");
  const uint64_t at = step["offset"].get<uint64_t>(), size = pmem.size_bytes();
  const bool fits = !after->empty() && after->size() <= size && at <= size - after->size();
  if (before->empty())
    return make_error(EINVAL, "what stood at %" PRIu64 " could not be read: it cannot be put back",
                      at);
  if (!fits || before->size() != after->size())
    return make_error(EINVAL, "is no step of a repair of this image");
  std::vector<std::byte> now(after->size());
  if (!pmem.load(now.data(), MediaOff{at}, now.size()) || (now != *after && now != *before))
    return make_error(
        EINVAL, "the image holds something else at %" PRIu64 " by now: nothing is taken back", at);
  return RepairStep{"", "", MediaOff{at}, *before};
}

int run_restore(const Options& options) {
  std::ifstream in(options.restore);
  if (!in) return fail(error_errno(errno, "%s", options.restore.c_str()));
  auto pmem = open_cache(options.image.cache, true);
  if (!pmem) return fail(pmem.error());
  RepairPlan plan;
  std::string line;
  std::getline(in, line);
  if (const auto ours = check_head(line, *pmem.value()); !ours)
    return fail(make_error(EINVAL, "%s: %s", options.restore.c_str(), ours.error().text.c_str()));
  for (int number = 2; std::getline(in, line); number++) {
    auto step = taken_back(line, *pmem.value());
    if (!step)
      return fail(make_error(EINVAL, "%s line %d: %s", options.restore.c_str(), number,
                             step.error().text.c_str()));
    plan.steps.insert(plan.steps.begin(), step.take());
  }
  if (plan.steps.empty() || in.bad())
    return fail(make_error(EINVAL, "%s: holds no step of a repair", options.restore.c_str()));
  if (const auto frame = load_frame(*pmem.value(), Log())) plan.chain = frame.value().chain;
  const auto sync = [&] { return sync_cache(options.image.cache, *pmem.value()); };
  if (const auto applied = apply_repair(*pmem.value(), plan, sync); !applied)
    return fail(applied.error());
  if (options.image.json)
    print({{"restored_steps", plan.steps.size()}});
  else
    printf("%s taken back\n", plural(plan.steps.size(), "step").c_str());
  return kDone;
}

}  // namespace

void add_repair(CLI::App& app, int* exit_code) {
  auto* command = app.add_subcommand(
      "repair", "Puts right what can be without a guess; shows the plan, and does it with --yes");
  command->footer(
      "Examples:\n  pcachectl repair pmem.img --backing disk.img\n  pcachectl repair pmem.img "
      "--backing disk.img --yes");
  auto options = std::make_shared<Options>();
  add_image(command, &options->image, Backing::kOptional);
  command->add_flag("--yes", options->yes, "do it");
  command->add_option("--keep", options->keep,
                      "the file for a copy of what is changed; default: "
                      "NAME.before-repair-TIME.jsonl in the current directory");
  command->add_option("--restore", options->restore, "takes back a repair, from its copy");
  command->callback([=] {
    *exit_code = options->restore.empty() ? run_repair(*options) : run_restore(*options);
  });
}

}  // namespace pcache::ctl
