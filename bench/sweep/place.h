// SPDX-License-Identifier: GPL-2.0-or-later
// Place: the devices and files that a sweep works on. What it makes itself is scratch and removed
// at the end, or by the next sweep if this one is killed; devices that are given are overwritten,
// and only if that is said.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace pcache::sweep {

struct PlaceOptions {
  std::string cache_dir = "/dev/shm";    // of the scratch file that stands for pmem
  std::string backing_dir = "/var/tmp";  // of the scratch file that is the backing device
  std::string cache_dev, backing;        // instead of those: a pmem device or file, a block device
  bool overwrite = false;                // they hold nothing that is needed
};

class Place {
 public:
  // Throws Wrong. `cache_bytes` and `backing_bytes`: the most that a case needs.
  // `paths`: other devices that are written to.
  Place(const PlaceOptions& options, uint64_t cache_bytes, uint64_t backing_bytes,
        const std::vector<std::string>& paths);
  ~Place();
  Place(const Place&) = delete;
  Place& operator=(const Place&) = delete;

  const std::string& cache() const { return cache_; }
  const std::string& bound() const { return bound_; }  // a second one, which holds no cache
  const std::string& backing() const { return backing_; }
  bool emulated() const { return scratch_cache_; }
  // The cache device becomes blank, and a scratch one of this size, which is the bound's, too; as
  // long as the size stays, so do its pages.
  void blank_cache(uint64_t cache_bytes) const;

 private:
  void remove_scratch();

  std::string cache_, bound_, backing_;
  std::string folder_, backing_folder_;  // of scratch files; empty: none
  bool scratch_cache_ = false;
};

}  // namespace pcache::sweep
