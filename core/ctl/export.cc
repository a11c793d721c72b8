// SPDX-License-Identifier: GPL-2.0-or-later
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ctl/common.h"
#include "inspect/rescue.h"

namespace pcache::ctl {

namespace {

struct Options {
  Image image;
  std::string to;
  bool force = false;
};

// A stream, if `to` exists and is a pipe or a device. Invalid: `to` is a file to be created.
Result<UniqueFd> open_stream(const std::string& to) {
  const bool to_stdout = to == "-" || to == "/dev/stdout";
  struct stat st;
  if (to_stdout ? fstat(STDOUT_FILENO, &st) != 0 : stat(to.c_str(), &st) != 0) return UniqueFd();
  if (S_ISBLK(st.st_mode))
    return make_error(
        EINVAL,
        "--to %s: is a block device, which export does not write to; to overwrite it: "
        "pcachectl export ... --to - | dd of=DEVICE bs=1M conv=fsync",
        to.c_str());
  UniqueFd fd;
  if (to_stdout)
    fd = UniqueFd(fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 0));
  else if (S_ISFIFO(st.st_mode) || S_ISCHR(st.st_mode))  // a FIFO without a reader would wait
    fd = UniqueFd(::open(to.c_str(), O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
  else
    return UniqueFd();
  if (!fd.valid() && errno == ENXIO)
    return make_error(ENXIO, "--to %s: nobody reads from it; start the reader first", to.c_str());
  if (!fd.valid()) return error_errno(errno, "--to %s: cannot be opened", to.c_str());
  if (isatty(fd.get()))
    return make_error(EINVAL, "--to %s: is a terminal; redirect it", to.c_str());
  if (!to_stdout) fcntl(fd.get(), F_SETFL, fcntl(fd.get(), F_GETFL) & ~O_NONBLOCK);
  return fd;
}

int run(const Options& options) {
  signal(SIGPIPE, SIG_IGN);  // without a reader write() fails instead
  const auto stream = open_stream(options.to);
  if (!stream) return fail(stream.error());
  // Messages must not get into the exported data.
  const bool in_order = stream.value().valid();
  struct stat st, out;
  const bool to_stdout = in_order && fstat(stream.value().get(), &st) == 0 &&
                         fstat(STDOUT_FILENO, &out) == 0 &&
                         S_ISCHR(st.st_mode) == S_ISCHR(out.st_mode) && st.st_dev == out.st_dev &&
                         st.st_ino == out.st_ino;
  FILE* const told = to_stdout ? stderr : stdout;
  const char* const prefix = to_stdout ? "pcachectl: " : "";
  auto open = open_image(options.image);
  if (!open) return fail(open.error());
  CheckReport& report = open.value().report;
  const BackingReader& backing = *open.value().backing;
  RescueOptions rescuing;
  rescuing.to = options.to == "-" ? "stdout" : options.to;
  rescuing.stream = stream.value().get();
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
    if (!options.image.json)
      fprintf(told, "%slost: %s: %s\n", prefix, finding.where.c_str(), finding.text.c_str());
  }
  const RescueResult& result = done.value();
  if (options.image.json)
    print(told, {{"to", options.to},
                 {"bytes", backing.size_bytes()},
                 {"cached_bytes", result.cached_bytes},
                 {"dirty_bytes", result.dirty_bytes},
                 {"lost_bytes", result.lost_bytes},
                 {"lost", lost}});
  else
    fprintf(told, "%s%s: %s, of them %s from the cache (%s dirty)\n", prefix, rescuing.to.c_str(),
            bytes_text(backing.size_bytes()).c_str(), bytes_text(result.cached_bytes).c_str(),
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
  command
      ->add_option("--to", options->to,
                   "the file, which must not exist; sparse. Or - (stdout), or a pipe: in "
                   "order, with the zeros")
      ->required();
  command->add_flag("--force", options->force,
                    "of an image that cannot be trusted take what can be had, and list what cannot "
                    "(exit status 2)");
  command->callback([=] { *exit_code = run(*options); });
}

}  // namespace pcache::ctl
