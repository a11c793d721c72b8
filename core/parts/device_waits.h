// SPDX-License-Identifier: GPL-2.0-or-later
// DeviceWaits: writes that are acknowledged when the backing device has them, as background work
// sees them. Their data is in the log already. Background work closes their ksets, says up to
// which kset they go, writes back, and says what has been passed. Any thread.
#pragma once

#include <cstdint>

namespace pcache {

class DeviceWaits {
 public:
  virtual ~DeviceWaits() = default;
  // Some wait.
  virtual bool any() const = 0;
  // Nothing may be passed that is not on the device, although a later key supersedes it: a write
  // waits, or one that will is on its way into the log.
  virtual bool holds() const = 0;
  // Takes those that have arrived since mark(). False: there are none, nor any that an earlier call
  // has taken.
  virtual bool take_arrived() = 0;
  virtual bool has_arrived() const = 0;
  // Those taken are in the first `ksets` of the log.
  virtual void mark(uint64_t ksets) = 0;
  // The device has the first `ksets`, flushed: those that are in them are acknowledged.
  virtual void passed(uint64_t ksets) = 0;
  // All that wait fail with this errno. Their data stays in the cache, and dirty.
  virtual void fail(int error) = 0;
  // Acknowledged data is damaged: it may be that of a write that waits, or is on its way. Before
  // passed() of it.
  virtual void data_lost() = 0;
};

}  // namespace pcache
