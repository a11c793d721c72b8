// SPDX-License-Identifier: GPL-2.0-or-later
// Session: a cache attached to simulated media, and its user: one request after the other, and a
// clock that moves only when it is turned. All stores to the media go into a Trace.
//
// ~Session() closes the cache, which stores: to simulate a crash, roll the memory back after it.
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
inline constexpr uint32_t kProveSegments = 32;            // the smallest device allowed

BackingIdentity prove_backing();

class Session {
 public:
  struct Options {
    Trace* trace = nullptr;
    // It notes all requests and acknowledgements; nullptr: none.
    Oracle* oracle = nullptr;
    bool strict = true;     // the option backing_order
    bool data_crc = false;  // for a blank device; else it must be the device's
    std::function<MemoryDevice::Fate(BlockOp, const Extent&)> fate = nullptr;
    // Not nullptr: the cache is a front, and reads this disk, which a backend has, too. Then the
    // owner of both says where events of pmem and disk go.
    MemoryDevice* disk = nullptr;
    uint32_t process = 0;  // whose number the trace has
    // Of a front: called while a write waits, so that the backend can do something.
    std::function<void()> pass_time = nullptr;
  };
  static Result<std::unique_ptr<Session>> attach(PmemSim& pmem, const Sectors& device,
                                                 const Options& options);
  ~Session();

  Cache& cache() { return *cache_; }
  MemoryDevice& device() { return *device_; }

  // 0 or an errno. A stalled write waits until background work has freed space: without a tick, but
  // while the device fails, for some ticks. ETIMEDOUT: no space came free.
  int write(const Extent& extent, uint32_t flags = 0, uint32_t op = PCACHE_OP_WRITE);
  int flush();
  // The request as it is: its result, 0 or a negative errno. The oracle learns nothing of it.
  int submit(pcache_request* request);
  // The result of a read: the version of each sector.
  struct ReadResult {
    int error = 0;                                 // errno
    std::string wrong;                             // not empty: a sector has no whole version
    std::string text(const Extent& extent) const;  // what is wrong; empty: nothing is
  };
  ReadResult read(const Extent& extent, Oracle::Found* found);
  // Turns the clock; 0: runs what is due now.
  void advance(int64_t ms) { executor_->advance(std::chrono::milliseconds(ms)); }
  Status close();
  // Later events are in no trace.
  void stop_tracing();

  // The device's sectors that differ from the start. The bytes belong to the session, and change
  // with the device.
  Sectors device_sectors();

 private:
  Session(PmemSim& pmem, const Options& options) : pmem_(pmem), options_(options) {}
  std::unique_ptr<BlockDevice> make_device(const Sectors& sectors);
  void trace_pmem(Trace* trace) {
    if (!options_.disk) pmem_.set_trace(trace);
  }
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

// The versions that a device has in `sectors`. Not empty: a sector has no whole version.
std::string read_device(const Sectors& device, const std::vector<uint64_t>& sectors,
                        Oracle::Found* found);
// Merges neighbours into one extent.
std::vector<Extent> extents_of(const std::vector<uint64_t>& sectors);

}  // namespace pcache
