// SPDX-License-Identifier: GPL-2.0-or-later
#include "ctl/common.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "blockdev/nbd_uri.h"

namespace pcache::ctl {

int fail(const Error& error) {
  fprintf(stderr, "pcachectl: %s\n", error.text.c_str());
  return error.code == EUCLEAN ? kUntrusted : kFailed;
}

Result<std::unique_ptr<Pmem>> open_cache(const std::string& path, bool write) {
  struct stat st;
  if (stat(path.c_str(), &st) != 0) return error_errno(errno, "cache device %s", path.c_str());
  PmemOptions options;
  options.path = path;
  options.block_device = true;
  options.emulate = true;  // an image is looked after as a file, wherever it lies
  options.read_only = !write;
  options.keep_sparse = true;
  return Pmem::open(options, Log());
}

Status sync_cache(const std::string& path, const Pmem& pmem) {
  if (auto flushed = pmem.flushed(); !flushed) return flushed;
  struct stat st;
  if (stat(path.c_str(), &st) == 0 && !S_ISREG(st.st_mode)) return {};  // its stores are durable
  UniqueFd fd(open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!fd.valid() || fsync(fd.get()) != 0)
    return error_errno(errno, "cache device %s: cannot be made durable", path.c_str());
  return {};
}

Result<BackingReader> open_backing(const std::string& path, const std::string& cache) {
  if (is_same_device(path, cache))
    return make_error(EINVAL, "%s: is given both as the cache device and as the backing device",
                      path.c_str());
  // Of a file all is said in errors; a server may be lost, and waited for.
  const auto say = [](LogLevel, const char* line) { fprintf(stderr, "pcachectl: %s\n", line); };
  return BackingReader::open(path, is_nbd_uri(path) ? Log(say) : Log());
}

void add_image(CLI::App* command, Image* image, Backing backing) {
  command->add_option("CACHE", image->cache, "cache device or image")->required();
  command->add_flag("--json", image->json, "for machines: one JSON object a line");
  if (backing == Backing::kNone) return;
  auto* option = command->add_option("--backing", image->backing,
                                     "its backing device, or a file with its content; only read");
  option->required(backing == Backing::kRequired);
  command->add_flag("--ignore-identity", image->ignore_identity,
                    "the backing device need not be the one that the identity block names: for "
                    "copies");
}

void TableOptions::add(CLI::App* command) {
  for (const OptionEntry& entry : option_table()) {
    const std::string name(entry.in_ctl(command->get_name()));
    if (!name.starts_with("--")) continue;
    auto text = std::make_unique<std::string>();
    const std::string help = std::string(entry.text) + " (" + expected_text(entry) + ")";
    const bool is_switch =
        entry.type == PCACHE_OPTION_SWITCH ||
        (entry.type == PCACHE_OPTION_CHOICE && entry.choices[0].name == std::string_view("0") &&
         entry.choices[1].name == std::string_view("1"));
    auto* option = is_switch ? command->add_flag(name + "{1}", *text, help)
                             : command->add_option(name, *text, help);
    all_.push_back({&entry, option, std::move(text)});
  }
}

Result<pcache_options> TableOptions::take() const {
  pcache_options options;
  init_options(&options, sizeof options);
  for (const Given& given : all_) {
    if (given.option->count() == 0) continue;
    if (auto set = set_option(&options, given.entry->name, given.text->c_str()); !set)
      return set.error();
  }
  return options;
}

Result<OpenImage> open_image(const Image& image, bool write) {
  OpenImage open;
  CheckOptions checking;
  checking.ignore_identity = image.ignore_identity;
  checking.scan_media = image.scan_media;
  if (!image.backing.empty()) {
    auto backing = open_backing(image.backing, image.cache);
    if (!backing) return backing.error();
    open.backing = backing.take();
    checking.backing = identity_of(*open.backing);
    if (!image.any_block) checking.block_bytes = open.backing->block_bytes();
  }
  auto pmem = open_cache(image.cache, write);
  if (!pmem) return pmem.error();
  open.pmem = pmem.take();
  Progress progress("check");
  checking.progress = [&](uint64_t done, uint64_t all) { progress(done, all); };
  open.report = check_image(*open.pmem, checking);
  return open;
}

Status require_attachable(const Image& image, const CheckReport& report) {
  if (report.frame.blank)
    return make_error(EINVAL, "cache device %s: is blank, not formatted yet", image.cache.c_str());
  if (report.attaches) return {};
  for (const Finding& finding : report.findings.all())
    if (finding.severity == Severity::kLost)
      return make_error(EUCLEAN, "cache device %s: cannot be attached: %s: %s", image.cache.c_str(),
                        finding.where.c_str(), finding.text.c_str());
  return make_error(EUCLEAN, "cache device %s: cannot be attached", image.cache.c_str());
}

void print(const Json& json) { print(stdout, json); }

void print(FILE* to, const Json& json) {
  // Paths are bytes, JSON is UTF-8: invalid bytes are replaced.
  fprintf(to, "%s\n", json.dump(-1, ' ', false, Json::error_handler_t::replace).c_str());
}

std::string bytes_text(uint64_t bytes) {
  constexpr const char* kUnits[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB"};
  double n = static_cast<double>(bytes);
  size_t unit = 0;
  for (; n >= 1024 && unit < 5; unit++) n /= 1024;
  char text[32];
  snprintf(text, sizeof text, unit == 0 || n == static_cast<uint64_t>(n) ? "%.0f %s" : "%.1f %s", n,
           kUnits[unit]);
  return text;
}

std::string plural(uint64_t n, const char* thing) {
  return std::to_string(n) + " " + thing + (n == 1 ? "" : "s");
}

Progress::Progress(const char* what) : what_(what), on_(isatty(STDERR_FILENO)) {}

Progress::~Progress() {
  if (on_ && last_ >= 0) fprintf(stderr, "\r\033[K");
}

void Progress::operator()(uint64_t done, uint64_t all) {
  if (!on_ || all == 0) return;
  const int percent = static_cast<int>(static_cast<double>(done) * 100 / static_cast<double>(all));
  if (percent == last_) return;
  last_ = percent;
  fprintf(stderr, "\r%s: %d %%", what_, percent);
  fflush(stderr);
}

}  // namespace pcache::ctl
