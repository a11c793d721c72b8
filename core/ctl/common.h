// SPDX-License-Identifier: GPL-2.0-or-later
// For all subcommands of pcachectl: exit codes, opening images, output.
//
// Results go to stdout, everything else to stderr. An error is one line: "pcachectl: ...".
#pragma once

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
#include <string>

#include "blockdev/backing_reader.h"
#include "cache/option_table.h"
#include "inspect/check.h"
#include "pmem/pmem.h"

namespace pcache::ctl {

using Json = nlohmann::ordered_json;

enum ExitCode {
  kDone = 0,
  kFindings = 1,   // something is wrong, but nothing is lost
  kUntrusted = 2,  // data is lost, or the image cannot be attached; nothing was done to it
  kFailed = 3,     // it could not be done: wrong use, no such file, in use, I/O error
};

// Registers a subcommand; its callback leaves the exit code.
void add_format(CLI::App& app, int* exit_code);
void add_status(CLI::App& app, int* exit_code);
void add_table(CLI::App& app, int* exit_code);
void add_check(CLI::App& app, int* exit_code);
void add_dump(CLI::App& app, int* exit_code);
void add_writeback(CLI::App& app, int* exit_code);
void add_export(CLI::App& app, int* exit_code);
void add_repair(CLI::App& app, int* exit_code);
void add_resize(CLI::App& app, int* exit_code);
void add_set(CLI::App& app, int* exit_code);
void add_identity(CLI::App& app, int* exit_code);
void add_calibrate(CLI::App& app, int* exit_code);
void add_list(CLI::App& app, int* exit_code);
void add_live_commands(CLI::App& app, int* exit_code);  // flush, drain, stats, metrics

// Prints the line; kUntrusted for a damaged image (EUCLEAN), else kFailed.
int fail(const Error& error);

// Opens any file or device, DAX or not, also a block device, if nobody has it attached. Writes to a
// plain file are durable after sync_cache(), which also says whether those to a block device have
// failed.
Result<std::unique_ptr<Pmem>> open_cache(const std::string& path, bool write);
Status sync_cache(const std::string& path, const Pmem& pmem);
// For reading. EINVAL: it is the cache device itself.
Result<BackingReader> open_backing(const std::string& path, const std::string& cache);

inline BackingIdentity identity_of(const BackingReader& backing) {
  return {backing.identity().text, backing.size_bytes(), backing.identity().unique};
}

// The image a command is about: CACHE, --backing, --ignore-identity, --json.
struct Image {
  std::string cache, backing;  // paths; backing may be empty
  bool ignore_identity = false;
  bool json = false;
  bool scan_media = false;  // see CheckOptions
  bool any_block = false;   // the backing device may be a copy, on a file system of other blocks
};
enum class Backing { kNone, kOptional, kRequired };
void add_image(CLI::App* command, Image* image, Backing backing);

// The options of the table that a subcommand takes, as --NAME; an option of the choices 0 and 1 is
// a switch that may have a value.
class TableOptions {
 public:
  void add(CLI::App* command);
  // The given options and the defaults. EINVAL: names the option, the value and what is expected.
  Result<pcache_options> take() const;

 private:
  struct Given {
    const OptionEntry* entry;
    CLI::Option* option;
    std::unique_ptr<std::string> text;
  };
  std::vector<Given> all_;
};

// The image, checked, and locked until it is closed. `write`: it may be changed after the check.
struct OpenImage {
  std::optional<BackingReader> backing;
  std::unique_ptr<Pmem> pmem;
  CheckReport report;
};
Result<OpenImage> open_image(const Image& image, bool write = false);
// EUCLEAN: it does not attach. EINVAL: it is blank.
Status require_attachable(const Image& image, const CheckReport& report);

void print(const Json& json);
void print(FILE* to, const Json& json);
std::string bytes_text(uint64_t bytes);  // "12.5 MiB"
std::string plural(uint64_t n, const char* thing);

// On a terminal only: "export: 42 %", rewritten in place on stderr.
class Progress {
 public:
  explicit Progress(const char* what);
  ~Progress();
  void operator()(uint64_t done, uint64_t all);

 private:
  const char* const what_;
  const bool on_;
  int last_ = -1;
};

}  // namespace pcache::ctl
