// SPDX-License-Identifier: GPL-2.0-or-later
// Place: the devices and files that a sweep works on. What it makes itself is scratch and removed
// at the end; devices that are given are overwritten, and only if that is said.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "sweep/device.h"
#include "sweep/scratch.h"

namespace pcache::sweep {

struct PlaceOptions {
  std::string cache_dir;    // of the scratch file that stands for pmem; empty: /dev/shm
  std::string backing_dir;  // of the scratch file that is the backing device; empty: /var/tmp
  std::string cache_dev, backing;  // instead of those: a pmem device or file, a block device
  bool overwrite = false;          // they hold nothing that is needed
};

class Place {
 public:
  Place() = default;
  virtual ~Place() = default;
  Place(const Place&) = delete;
  Place& operator=(const Place&) = delete;

  // The bound's, too: where in memory a file lies makes a third of its speed, so two would not do.
  const std::string& cache() const { return cache_; }
  // A scratch cache is another file from here on, elsewhere in memory: a sweep of one file had the
  // luck of that in its medians, and not in their intervals.
  virtual void begin_round() const = 0;
  const std::string& backing() const { return backing_; }
  bool emulated() const { return emulated_; }
  // They are on other machines, each of which has them.
  bool on_hosts() const { return on_hosts_; }
  // The cache device becomes blank, and a scratch one of this size; as long as the size stays, so
  // do its pages. Throws Wrong.
  virtual void blank_cache(uint64_t cache_bytes) const = 0;

 protected:
  std::string cache_, backing_;
  bool emulated_ = false, on_hosts_ = false;
};

// On this machine. What a sweep that was killed has left, the next one removes.
class LocalPlace : public Place {
 public:
  // Throws Wrong. `cache_bytes` and `backing_bytes`: the most that a case needs.
  // `paths`: other devices that are written to, and what is needed of them.
  LocalPlace(const PlaceOptions& options, uint64_t cache_bytes, uint64_t backing_bytes,
             const std::map<std::string, uint64_t>& paths);
  // The same checks, and nothing is made or written. Throws Wrong.
  static void check(const PlaceOptions& options, uint64_t cache_bytes, uint64_t backing_bytes,
                    const std::map<std::string, uint64_t>& paths);

  void begin_round() const override;
  void blank_cache(uint64_t cache_bytes) const override;

 private:
  LocalPlace() = default;
  void hold_given(const PlaceOptions& options, uint64_t cache_bytes, uint64_t backing_bytes,
                  const std::map<std::string, uint64_t>& paths);
  void hold(const std::string& path, Device::Use use, uint64_t least_bytes,
            const PlaceOptions& options);

  std::vector<std::unique_ptr<Device>> devices_;              // that were given
  std::unique_ptr<Scratch> scratch_cache_, scratch_backing_;  // of files; nullptr: none
};

}  // namespace pcache::sweep
