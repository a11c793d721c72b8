// SPDX-License-Identifier: GPL-2.0-or-later
// pcachectl: maintains dm-pcache images offline, ours and the kernel target's, and asks caches
// that are attached.
#include <cstdio>
#include <exception>
#include <iostream>
#include <new>

#include "ctl/common.h"

namespace {

constexpr const char* kFooter =
    "Exit status: 0 done, or sound; 1 findings, nothing lost; 2 data lost, or the image cannot be "
    "attached;\n3 it could not be done (wrong use, no such file, in use, I/O error).\n\n"
    "Examples:\n"
    "  pcachectl check /dev/dax0.0 --backing /dev/sdb      is it sound, and is it of that disk?\n"
    "  pcachectl status cache.img                         positions, dirty data\n"
    "  pcachectl dump cache.img --range 1M+64K            where do these sectors live?\n"
    "  pcachectl export cache.img --backing disk.img --to whole.img\n"
    "  pcachectl writeback cache.img --to /dev/sdb        drains the dirty data\n"
    "  pcachectl list                                     which caches are attached?\n"
    "  pcachectl status /dev/dax0.0 --watch               what does it do, each second?\n"
    "See pcachectl(1), and pcachectl SUBCOMMAND --help.";

bool has_subcommand(const CLI::App& app, const std::string& name) {
  const auto all =
      app.get_subcommands([&](const CLI::App* sub) { return sub->get_name() == name; });
  return !all.empty();
}

}  // namespace

int main(int argc, char** argv) try {
  using namespace pcache::ctl;
  CLI::App app("Looks after dm-pcache cache images, and caches that are attached.", "pcachectl");
  app.set_version_flag("--version", "pcachectl " PCACHE_VERSION);
  app.require_subcommand(1);
  app.footer(kFooter);
  int exit_code = kDone;
  add_check(app, &exit_code);
  add_status(app, &exit_code);
  add_dump(app, &exit_code);
  add_export(app, &exit_code);
  add_writeback(app, &exit_code);
  add_repair(app, &exit_code);
  add_format(app, &exit_code);
  add_resize(app, &exit_code);
  add_set(app, &exit_code);
  add_identity(app, &exit_code);
  add_calibrate(app, &exit_code);
  add_table(app, &exit_code);
  add_list(app, &exit_code);
  add_live_commands(app, &exit_code);
  const auto flushed = [](int code) {
    if (fflush(stdout) == 0 && !ferror(stdout)) return code;
    fprintf(stderr, "pcachectl: stdout: cannot be written\n");
    return static_cast<int>(kFailed);
  };
  if (argc > 1 && argv[1][0] != '-' && !has_subcommand(app, argv[1]))
    return fail(
        pcache::make_error(EINVAL, "%s: no such subcommand; see pcachectl --help", argv[1]));
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) {  // --help, --version
      app.exit(error);
      std::cout.flush();
      return flushed(std::cout ? kDone : kFailed);
    }
    const auto* at = app.get_subcommands().empty() ? nullptr : app.get_subcommands()[0];
    return fail(pcache::make_error(EINVAL, "%s; see pcachectl %s%s--help", error.what(),
                                   at ? at->get_name().c_str() : "", at ? " " : ""));
  }
  return flushed(exit_code);
} catch (const std::bad_alloc&) {
  fprintf(stderr, "pcachectl: out of memory\n");
  return pcache::ctl::kFailed;
} catch (const std::exception& error) {
  fprintf(stderr, "pcachectl: %s\n", error.what());
  return pcache::ctl::kFailed;
}
