// SPDX-License-Identifier: GPL-2.0-or-later
// pcachectl: looks after dm-pcache images offline, ours and the kernel target's.
#include <cstdio>
#include <new>

#include "ctl/common.h"

namespace {

constexpr const char* kFooter =
    "Exit status: 0 done, or clean; 1 findings, nothing lost; 2 data lost, or the image cannot be "
    "attached;\n3 it could not be done (wrong use, no such file, in use, I/O error).\n\n"
    "Examples:\n"
    "  pcachectl check /dev/pmem0 --backing /dev/sdb      is it sound, and is it of that disk?\n"
    "  pcachectl status cache.img                         positions, dirty data\n"
    "  pcachectl dump cache.img --range 1M+64K            where do these sectors live?\n"
    "  pcachectl export cache.img --backing disk.img --to whole.img\n"
    "  pcachectl writeback cache.img --to /dev/sdb        drains the dirty data\n"
    "See pcachectl(1), and pcachectl SUBCOMMAND --help.";

}  // namespace

int main(int argc, char** argv) try {
  using namespace pcache::ctl;
  CLI::App app("Looks after dm-pcache cache images that are not attached.", "pcachectl");
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
  add_set(app, &exit_code);
  add_identity(app, &exit_code);
  add_table(app, &exit_code);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    const auto* at = app.get_subcommands().empty() ? nullptr : app.get_subcommands()[0];
    fprintf(stderr, "pcachectl: %s; see pcachectl %s%s--help\n", error.what(),
            at ? at->get_name().c_str() : "", at ? " " : "");
    return kFailed;
  }
  if (fflush(stdout) != 0 || ferror(stdout)) {
    fprintf(stderr, "pcachectl: stdout: cannot be written\n");
    return kFailed;
  }
  return exit_code;
} catch (const std::bad_alloc&) {
  fprintf(stderr, "pcachectl: out of memory\n");
  return pcache::ctl::kFailed;
}
