// SPDX-License-Identifier: GPL-2.0-or-later
// Session: a cache attached to simulated media, and the user of it: one request after the other, a
// clock that stands still unless turned. What it does to the media goes into a Trace.
//
// Dropping a Session closes the cache, which stores: who plays a crash rolls the memory back.
#pragma once

#include <functional>

#include "base/executor.h"
#include "cache/cache.h"
#include "prove/oracle.h"
#include "prove/pmem_sim.h"
#include "testing/memory_device.h"
#include "testing/power_loss.h"

namespace pcache {

inline constexpr uint64_t kProveLogicalBytes = 12 << 20;  // three ranges
inline constexpr uint32_t kProveSegments = 32;            // the smallest device that is one

BackingIdentity prove_backing();

class Session {
 public:
  struct Options {
    Trace* trace = nullptr;
    // What is asked and acknowledged is told to it; nullptr: nobody is told.
    Oracle* oracle = nullptr;
    bool data_crc = false;  // of a device that is blank; else it must be what the device has
    std::function<MemoryDevice::Fate(BlockOp, const Extent&)> fate = nullptr;
  };
  static Result<std::unique_ptr<Session>> attach(PmemSim& pmem, const Sectors& device,
                                                 const Options& options);
  ~Session();

  Cache& cache() { return *cache_; }
  MemoryDevice& device() { return *device_; }

  // 0 or an errno. A write that finds no space waits until background work has made some: at once,
  // since nobody waits for a tick; while the device fails, for a while. ETIMEDOUT: it has made
  // none.
  int write(const Extent& extent, uint32_t flags = 0);
  int flush();
  // What a read gives: of each sector its version.
  struct ReadResult {
    int error = 0;                                 // errno
    std::string wrong;                             // not empty: a sector that is no version's
    std::string text(const Extent& extent) const;  // of what is wrong; empty: nothing
  };
  ReadResult read(const Extent& extent, Oracle::Found* found);
  // Turns the clock; 0: what is due now.
  void advance(int64_t ms) { executor_->advance(std::chrono::milliseconds(ms)); }
  Status close();
  // What happens from now on is in no trace.
  void stop_tracing();

  // The device's sectors as they are now, but for those that are as at the start. The bytes are the
  // session's, and change with the device.
  Sectors device_sectors();

 private:
  Session(PmemSim& pmem, const Options& options) : pmem_(pmem), options_(options) {}
  int run(pcache_request* request);
  Oracle::Time mark();

  PmemSim& pmem_;
  Options options_;
  MemoryDevice* device_ = nullptr;
  SteppedExecutor* executor_ = nullptr;
  std::unique_ptr<Cache> cache_;
  std::unique_ptr<Queue> queue_;
  std::map<uint64_t, std::vector<std::byte>> changed_;  // device sectors
};

// Which versions a device holds in `sectors`. Non-empty: a sector that is no version's.
std::string read_device(const Sectors& device, const std::vector<uint64_t>& sectors,
                        Oracle::Found* found);
// Neighbours as one extent.
std::vector<Extent> extents_of(const std::vector<uint64_t>& sectors);

}  // namespace pcache
