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

// One JSON object a line: the place, the bytes that stood there and those that came there.
std::string copy_of(const Pmem& pmem, const RepairPlan& plan) {
  std::string text;
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

void print_plan(const Options& options, const RepairPlan& plan) {
  if (options.image.json) {
    Json steps = Json::array();
    for (const RepairStep& step : plan.steps)
      steps.push_back({{"what", step.what},
                       {"why", step.why},
                       {"offset", step.at.v},
                       {"bytes", step.bytes.size()}});
    print({{"steps", steps}, {"left", plan.left}, {"done", options.yes}});
    return;
  }
  for (const RepairStep& step : plan.steps)
    printf("%s: %s (%zu bytes at %" PRIu64 ")\n", step.what.c_str(), step.why.c_str(),
           step.bytes.size(), step.at.v);
  for (const std::string& left : plan.left) printf("not repaired: %s\n", left.c_str());
  if (plan.steps.empty()) printf("nothing to repair\n");
}

Status keep_copy(const Pmem& pmem, const RepairPlan& plan, const std::string& to) {
  auto file = NewFile::create(to);
  if (!file) return file.error();
  const std::string text = copy_of(pmem, plan);
  if (auto written = file.value().write(0, text.data(), text.size()); !written) return written;
  return file.value().publish();
}

int run_repair(const Options& options) {
  RepairPlan plan;
  {
    const auto open = open_image(options.image);
    if (!open) return fail(open.error());
    const auto* backing = open.value().backing ? &*open.value().backing : nullptr;
    plan = plan_repair(*open.value().pmem, open.value().report, backing);
    print_plan(options, plan);
    if (!open.value().report.attaches) return kUntrusted;
    if (plan.steps.empty()) return open.value().report.exit_code();
    if (!options.yes) {
      if (!options.image.json) printf("this was the plan: --yes to do it\n");
      return open.value().report.exit_code();
    }
  }
  auto pmem = open_cache(options.image.cache, true);
  if (!pmem) return fail(pmem.error());
  const std::string keep = options.keep.empty() ? default_copy(options.image.cache) : options.keep;
  if (const auto kept = keep_copy(*pmem.value(), plan, keep); !kept) return fail(kept.error());
  apply_repair(*pmem.value(), plan);
  pmem.take().reset();
  if (const auto synced = sync_cache(options.image.cache); !synced) return fail(synced.error());
  if (!options.image.json)
    printf("%s done; what was there before is in %s (repair --restore)\n",
           plural(plan.steps.size(), "step").c_str(), keep.c_str());
  const auto after = open_image(options.image);
  if (!after) return fail(after.error());
  return after.value().report.exit_code();
}

std::optional<std::vector<std::byte>> bytes_of(const Json& step, const char* name) {
  if (!step.contains(name) || !step[name].is_string()) return std::nullopt;
  const std::string hex = step[name].get<std::string>();
  std::vector<std::byte> bytes;
  for (size_t i = 0; i + 1 < hex.size(); i += 2) {
    const char digits[3] = {hex[i], hex[i + 1], 0};
    char* end = nullptr;
    bytes.push_back(static_cast<std::byte>(strtoul(digits, &end, 16)));
    if (*end != 0) return std::nullopt;
  }
  return bytes;
}

// The step of a line that takes it back. It must be what this image was given: a copy of another
// image, or of one that was attached since, would destroy it.
Result<RepairStep> taken_back(const std::string& line, const Pmem& pmem) {
  const Json step = Json::parse(line, nullptr, false);
  const bool sound =
      step.is_object() && step.contains("offset") && step["offset"].is_number_unsigned();
  const auto before = sound ? bytes_of(step, "before") : std::nullopt;
  const auto after = sound ? bytes_of(step, "after") : std::nullopt;
  if (!before || !after) return make_error(EINVAL, "is no step of a repair");
  const uint64_t at = step["offset"].get<uint64_t>(), size = pmem.size_bytes();
  if (before->size() > after->size() || after->size() > size || at > size - after->size())
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
  for (int number = 1; std::getline(in, line); number++) {
    auto step = taken_back(line, *pmem.value());
    if (!step)
      return fail(make_error(EINVAL, "%s line %d: %s", options.restore.c_str(), number,
                             step.error().text.c_str()));
    plan.steps.insert(plan.steps.begin(), step.take());
  }
  if (plan.steps.empty())
    return fail(make_error(EINVAL, "%s: holds no step of a repair", options.restore.c_str()));
  apply_repair(*pmem.value(), plan);
  pmem.take().reset();
  if (const auto synced = sync_cache(options.image.cache); !synced) return fail(synced.error());
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
