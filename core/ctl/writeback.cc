// SPDX-License-Identifier: GPL-2.0-or-later
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>

#include "cache/cache.h"
#include "ctl/common.h"

namespace pcache::ctl {

namespace {

// Shows how far a drain has come, from another thread.
class Watch {
 public:
  Watch(const Cache& cache, uint64_t all) : progress_("writeback") {
    try {
      thread_ = std::thread([this, &cache, all] { run(cache, all); });
    } catch (const std::system_error&) {
      // No thread: then nobody sees how far it has come.
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
  options.backing.path = image.backing;
  options.force = image.ignore_identity;
  return Cache::open(options);
}

int run(const Image& image) {
  {
    // First without touching anything: a blank device must not be formatted, damage be told well.
    const auto open = open_image(image);
    if (!open) return fail(open.error());
    const CheckReport& report = open.value().report;
    if (const auto usable = require_attachable(image, report); !usable) return fail(usable.error());
    if (!report.trusted_but_for_data())
      return fail(make_error(EUCLEAN,
                             "cache device %s: its dirty data cannot be trusted: nothing is "
                             "written; see pcachectl check, and export --force",
                             image.cache.c_str()));
  }
  auto cache = attach(image);
  if (!cache) return fail(cache.error());
  const uint64_t dirty = cache.value()->replayed().dirty_bytes;
  const auto drained = [&] {
    Watch watch(*cache.value(), dirty);
    return cache.value()->drain();
  }();
  const uint64_t written = cache.value()->writeback().counters().written_bytes;
  const uint64_t passed = cache.value()->writeback().passed_dirty_bytes();
  const auto closed = cache.value()->close();
  cache.take().reset();
  if (const auto synced = sync_cache(image.cache); !synced) return fail(synced.error());
  if (image.json)
    print({{"dirty_bytes", dirty},
           {"passed_bytes", passed},
           {"written_bytes", written},
           {"done", drained.ok() && closed.ok()}});
  else
    printf("%s of dirty data written to %s (%s after merging)\n", bytes_text(passed).c_str(),
           image.backing.c_str(), bytes_text(written).c_str());
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
  command->add_option("--to", image->backing, "the backing device")->required();
  command->add_flag("--ignore-identity", image->ignore_identity,
                    "it need not be the one that the identity block names: for copies; it is "
                    "recorded instead");
  command->callback([=] { *exit_code = run(*image); });
}

}  // namespace pcache::ctl
