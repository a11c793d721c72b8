// SPDX-License-Identifier: GPL-2.0-or-later
// AddressRoom: address space into which the mapping of a file may grow, as libpmem2 reserves it.
//
// What is given back is kept for the next one. libpmem2 (1.12.1) takes a GiB more than it is asked
// for, and leaves it taken when the reservation is deleted: of 256 GiB each the 500th attach of a
// process would find no more address space in a row. So a process keeps as many as it has had
// attached at once.
// Any thread.
#pragma once

#include <cstdint>
#include <utility>

struct pmem2_vm_reservation;

namespace pcache {

class AddressRoom {
 public:
  AddressRoom() = default;
  AddressRoom(AddressRoom&& other) noexcept : room_(std::exchange(other.room_, nullptr)) {}
  AddressRoom& operator=(AddressRoom&& other) noexcept {
    std::swap(room_, other.room_);
    return *this;
  }
  // What was mapped there is unmapped by then.
  ~AddressRoom();

  // Of so many bytes at least; empty: there is not so much.
  static AddressRoom take(uint64_t bytes);
  explicit operator bool() const { return room_ != nullptr; }
  pmem2_vm_reservation* get() const { return room_; }
  // Nobody gets it any more: something in it could not be unmapped.
  void abandon() { room_ = nullptr; }

 private:
  explicit AddressRoom(pmem2_vm_reservation* room) : room_(room) {}
  pmem2_vm_reservation* room_ = nullptr;
};

}  // namespace pcache
