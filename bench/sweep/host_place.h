// SPDX-License-Identifier: GPL-2.0-or-later
// HostPlace: the same paths on each of several hosts. All that is done there, fio does: scratch
// files are made, blanked and removed by jobs of its own. What a sweep that is killed leaves there
// stays; its name has `pcache-sweep-`.
#pragma once

#include <map>
#include <string>

#include "sweep/hosts.h"
#include "sweep/place.h"

namespace pcache::sweep {

class HostPlace : public Place {
 public:
  // As LocalPlace. `hosts` must outlive it. Throws Wrong, and Interrupted.
  HostPlace(const Hosts& hosts, const PlaceOptions& options, uint64_t cache_bytes,
            uint64_t backing_bytes, const std::map<std::string, uint64_t>& paths);
  ~HostPlace() override;

  // Throws Wrong before anything is asked of a host: what fio cannot do there.
  static void check(const PlaceOptions& options, const std::map<std::string, uint64_t>& paths);

  void begin_round() const override;
  void blank_cache(uint64_t cache_bytes) const override;

 private:
  void run(const std::string& job) const;
  void make(const std::string& path, uint64_t bytes) const;
  void need_room(const std::string& path, uint64_t bytes) const;
  std::string removing(bool cache, bool backing) const;

  const Hosts& hosts_;
  bool scratch_backing_ = false;
  mutable uint64_t made_bytes_ = 0;  // of the scratch cache; 0: it is to be made anew
};

}  // namespace pcache::sweep
