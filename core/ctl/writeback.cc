// SPDX-License-Identifier: GPL-2.0-or-later
#include <cinttypes>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>

#include "cache/cache.h"
#include "ctl/common.h"

namespace pcache::ctl {

namespace {

// Shows the progress of a drain, in a thread of its own.
class Watch {
 public:
  Watch(const Cache& cache, uint64_t all) : progress_("writeback") {
    try {
      thread_ = std::thread([this, &cache, all] { run(cache, all); });
    } catch (const std::system_error&) {
      // Without a thread no progress is shown.
    }
  }
  ~Watch() {
    {
      std::lock_guard lock(mu_);
      done_ = true;
    }
    changed_.notify_one();
    if (thread_.joinable()) thread_.join();
  }

 private:
  void run(const Cache& cache, uint64_t all) {
    std::unique_lock lock(mu_);
    while (!changed_.wait_for(lock, std::chrono::milliseconds(200), [this] { return done_; }))
      progress_(cache.writeback().passed_dirty_bytes(), all);
  }

  Progress progress_;
  std::mutex mu_;
  std::condition_variable changed_;
  bool done_ = false;
  std::thread thread_;
};

Result<std::unique_ptr<Cache>> attach(const Image& image) {
  pcache::Options options;
  options.pmem.path = image.cache;
  options.pmem.emulate = true;
  options.pmem.block_device = true;
  options.backing.path = image.backing;
  options.force = image.ignore_identity;
  return Cache::open(options);
}

// The dirty bytes that the check of an image finds; nothing: it cannot be checked.
std::optional<uint64_t> dirty_bytes(const Image& image) {
  const auto open = open_image(image);
  return open ? std::optional(open.value().report.dirty_bytes) : std::nullopt;
}

struct Outcome {
  uint64_t dirty_bytes;                // newer in the cache, each byte once
  uint64_t written_bytes;              // to the device; written twice counts twice
  std::optional<uint64_t> left_bytes;  // still dirty; nothing: not known
  bool done;
};

void print_result(const Image& image, const Outcome& outcome) {
  if (image.json) {
    Json json = {{"dirty_bytes", outcome.dirty_bytes},
                 {"written_bytes", outcome.written_bytes},
                 {"left_bytes", nullptr},
                 {"done", outcome.done}};
    if (outcome.left_bytes) json["left_bytes"] = *outcome.left_bytes;
    return print(json);
  }
  const std::string dirty = bytes_text(outcome.dirty_bytes);
  const std::string written = bytes_text(outcome.written_bytes);
  const char* const to = image.backing.c_str();
  if (outcome.done && outcome.dirty_bytes == outcome.written_bytes)
    printf("%s of dirty data written to %s\n", dirty.c_str(), to);
  else if (outcome.done)
    printf("%s of dirty data written to %s (%s with what its flushes order before)\n",
           dirty.c_str(), to, written.c_str());
  else
    printf("not done: of %s of dirty data %s is still dirty; %s was written to %s\n", dirty.c_str(),
           outcome.left_bytes ? bytes_text(*outcome.left_bytes).c_str() : "a part", written.c_str(),
           to);
}

int run(const Image& image) {
  uint64_t dirty = 0;
  {
    // Checks without a store first: a blank device must not be formatted, damage be reported well.
    const auto open = open_image(image);
    if (!open) return fail(open.error());
    const CheckReport& report = open.value().report;
    if (const auto usable = require_attachable(image, report); !usable) return fail(usable.error());
    if (!report.trusted_but_for_data())
      return fail(make_error(EUCLEAN,
                             "cache device %s: its dirty data cannot be trusted: nothing is "
                             "written; see pcachectl check, and export --force",
                             image.cache.c_str()));
    dirty = report.dirty_bytes;
  }
  auto cache = attach(image);
  if (!cache) return fail(cache.error());
  const auto drained = [&] {
    Watch watch(*cache.value(), cache.value()->replayed().dirty_bytes);
    return cache.value()->drain();
  }();
  const uint64_t written = cache.value()->writeback().counters().written_bytes;
  const auto closed = cache.value()->close();
  const auto synced = sync_cache(image.cache, cache.value()->pmem());
  cache.take().reset();
  if (!synced) return fail(synced.error());
  const bool done = drained.ok() && closed.ok();
  const auto left = done ? std::optional<uint64_t>(0) : dirty_bytes(image);
  print_result(image, {dirty, written, left, done});
  for (const Status* status : {&drained, &closed})
    if (!*status) {
      fail(status->error());
      return status->error().code == EIO ? kUntrusted : kFailed;
    }
  return kDone;
}

}  // namespace

void add_writeback(CLI::App& app, int* exit_code) {
  auto* command = app.add_subcommand("writeback",
                                     "Drains the dirty data to the backing device, in log order; "
                                     "can be interrupted and run again");
  command->footer("Examples:\n  pcachectl writeback pmem.img --to disk.img");
  auto image = std::make_shared<Image>();
  add_image(command, image.get(), Backing::kNone);
  command->add_option("--to", image->backing, "the backing device, or the file that is one")
      ->required();
  command->add_flag("--ignore-identity", image->ignore_identity,
                    "it need not be the one that the identity block names: for copies; it is "
                    "recorded instead");
  command->callback([=] { *exit_code = run(*image); });
}

}  // namespace pcache::ctl
