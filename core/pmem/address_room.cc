// SPDX-License-Identifier: GPL-2.0-or-later
#include "pmem/address_room.h"

#include <libpmem2.h>

#include <algorithm>
#include <new>
#include <vector>

#include "base/mutex.h"

namespace pcache {

namespace {

struct Kept {
  Mutex mu;
  std::vector<pmem2_vm_reservation*> free GUARDED_BY(mu);
};

// Is there until the process ends: caches may be closed by destructors of others' statics.
Kept& kept() {
  static Kept& all = *new Kept;
  return all;
}

}  // namespace

AddressRoom AddressRoom::take(uint64_t bytes) {
  {
    MutexLock lock(kept().mu);
    auto& free = kept().free;
    const auto fits = std::find_if(free.begin(), free.end(), [&](pmem2_vm_reservation* room) {
      return pmem2_vm_reservation_get_size(room) >= bytes;
    });
    if (fits != free.end()) {
      pmem2_vm_reservation* const room = *fits;
      free.erase(fits);
      return AddressRoom(room);
    }
  }
  pmem2_vm_reservation* room = nullptr;
  if (pmem2_vm_reservation_new(&room, nullptr, bytes) != 0) return {};
  return AddressRoom(room);
}

AddressRoom::~AddressRoom() {
  if (!room_) return;
  try {
    MutexLock lock(kept().mu);
    kept().free.push_back(room_);
  } catch (const std::bad_alloc&) {
    pmem2_vm_reservation_delete(&room_);
  }
}

}  // namespace pcache
