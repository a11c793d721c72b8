// SPDX-License-Identifier: GPL-2.0-or-later
// Writeback stepped by hand, and what it did to the device.
#pragma once

#include <cstring>
#include <map>

#include "background/background_for_test.h"
#include "background/writeback.h"

namespace pcache {

class WritebackTest : public BackgroundTest {
 protected:
  void start(RigOptions o = {}) {
    o.writeback.data_lost = [this](int error) { lost_.push_back(error); };
    BackgroundTest::start(o);
    device_->start_journal();
  }
  const Writeback::Counters& counters() const { return rig_->writeback->counters(); }
  size_t flushes() const {
    size_t n = 0;
    for (const MemoryDevice::Event& event : device_->journal()) n += event.op == BlockOp::kFlush;
    return n;
  }
  // Of the device, in order: "OFF+LEN" of writes in sectors, "flush", "hole OFF+LEN".
  std::vector<std::string> done() const {
    std::vector<std::string> text;
    for (const MemoryDevice::Event& event : device_->journal())
      text.push_back(event.op == BlockOp::kFlush
                         ? "flush"
                         : (event.op == BlockOp::kPunchHole ? "hole "
                            : event.op == BlockOp::kZero    ? "zero "
                                                            : "") +
                               std::to_string(event.extent.off / kSector) + "+" +
                               std::to_string(event.extent.len / kSector));
    return text;
  }
  std::string step_error() {
    const auto moved = step();
    return moved.ok() ? "no error" : moved.error().text;
  }
  // What a user wrote, another value each time, and where the barriers were. Places are multiples
  // of `place_bytes`.
  struct Epochs {
    uint64_t place_bytes;
    std::vector<std::map<uint64_t, uint32_t>> before{};  // at each barrier: what each place held
    std::vector<uint32_t> epoch_of{0};                   // by value
    std::map<uint64_t, uint32_t> now{};

    uint32_t new_value() {
      epoch_of.push_back(static_cast<uint32_t>(before.size()));
      return static_cast<uint32_t>(epoch_of.size() - 1);
    }
    void barrier() { before.push_back(now); }
  };
  // At any moment, whatever of the unflushed writes a loss of power keeps, the device alone was a
  // state that the barriers allow: something of epoch N on it means all of the earlier ones. No
  // older data came over newer. Now the device has everything, and nothing is dirty.
  void expect_device_was_legal(const Epochs& user) {
    std::map<uint64_t, uint32_t> durable, written;
    uint32_t reached = 0;  // the last epoch of which something is on the device
    for (const MemoryDevice::Event& event : device_->journal()) {
      if (event.op == BlockOp::kFlush) {
        durable = written;
        continue;
      }
      for (uint64_t at = 0; at < event.extent.len; at += user.place_bytes) {
        uint32_t value;
        memcpy(&value, event.bytes.data() + at, sizeof value);
        uint32_t& there = written[event.extent.off + at];
        ASSERT_GE(value, there) << "older data over newer";
        there = value;
        const uint32_t epoch = user.epoch_of[value];
        if (epoch <= reached) continue;
        reached = epoch;
        for (const auto& [off, least] : user.before[epoch - 1])
          ASSERT_GE(durable[off], least) << "epoch " << epoch << " overtakes";
      }
    }
    EXPECT_EQ(durable, user.now);
    for (const auto& [off, value] : user.now) {
      ASSERT_EQ(rig_->device_value(off), int(value));
      ASSERT_FALSE(rig_->dirty(off));
    }
  }
  CachePos dirty_tail() const { return rig_->tails.dirty_tail(); }

  std::vector<int> lost_;
};

}  // namespace pcache
