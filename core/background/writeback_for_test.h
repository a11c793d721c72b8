// SPDX-License-Identifier: GPL-2.0-or-later
// Writeback stepped by hand, and what it did to the device.
#pragma once

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
  // Of the device, in order: "OFF+LEN" of writes in sectors, "flush".
  std::vector<std::string> done() const {
    std::vector<std::string> text;
    for (const MemoryDevice::Event& event : device_->journal())
      text.push_back(event.op == BlockOp::kFlush
                         ? "flush"
                         : std::to_string(event.extent.off / kSector) + "+" +
                               std::to_string(event.extent.len / kSector));
    return text;
  }
  std::string step_error() {
    const auto moved = step();
    return moved.ok() ? "no error" : moved.error().text;
  }
  CachePos dirty_tail() const { return rig_->tails.dirty_tail(); }

  std::vector<int> lost_;
};

}  // namespace pcache
