// SPDX-License-Identifier: GPL-2.0-or-later
#include "segment/persist_record.h"

#include <gtest/gtest.h>

#include "format/codec.h"
#include "segment/identity.h"
#include "testing/crash_states.h"
#include "testing/memory_pmem.h"

namespace pcache {
namespace {

using media::PersistRecord;

class PersistRecordTest : public ::testing::Test {
 protected:
  PersistRecordTest() {
    EXPECT_TRUE(write_identity(memory_.pmem(), {"disk", 1 << 20}, 0).ok());
    uint32_t ns = 100;
    for (const PersistOps& ops : persist_methods())
      if (ops.supported()) given_.measured.push_back({&ops, {ns++, ns++, ns++, ns++}});
    memory_.checkpoint();
  }
  bool is_given(const std::optional<Calibration>& found) const {
    return found && found->text() == given_.text();
  }
  // Changes the record and makes its crc right again.
  void change(const std::function<void(PersistRecord&)>& how) {
    auto record = memory_.peek<PersistRecord>(MediaOff{media::kPersistOff});
    how(record);
    record.crc = record_crc(record);
    memory_.poke(MediaOff{media::kPersistOff}, record);
  }

  MemoryPmem memory_{1 << 20};
  Calibration given_;
};

TEST_F(PersistRecordTest, WhatIsStoredIsLoaded) {
  EXPECT_FALSE(load_calibration(memory_.pmem()));
  ASSERT_TRUE(store_calibration(memory_.pmem(), given_, 1).ok());
  EXPECT_TRUE(is_given(load_calibration(memory_.pmem())));
  EXPECT_TRUE(load_identity(memory_.pmem()).value()) << "beside it";
  EXPECT_TRUE(all_durable(memory_.journal()));
}

TEST_F(PersistRecordTest, TornAtAnyWordItIsNoneOrWhole) {
  ASSERT_TRUE(store_calibration(memory_.pmem(), given_, 1).ok());
  int none = 0, whole = 0;
  for_each_crash_state(memory_.journal(), {.samples = 100},
                       [&](std::span<const KeptStore> kept, const std::string& what) {
                         const auto image = memory_.crash_image(kept);
                         const auto found = load_calibration(image->pmem());
                         EXPECT_TRUE(!found || is_given(found)) << what;
                         EXPECT_TRUE(load_identity(image->pmem()).ok()) << what;
                         EXPECT_TRUE(store_calibration(image->pmem(), given_, 2).ok()) << what;
                         (found ? whole : none)++;
                       });
  EXPECT_GT(none, 2);
  EXPECT_GT(whole, 0);
}

TEST_F(PersistRecordTest, DamagedItIsMeasuredAgain) {
  ASSERT_TRUE(store_calibration(memory_.pmem(), given_, 1).ok());
  for (uint64_t at = 0; at < sizeof(PersistRecord); at += 4) {
    memory_.flip_bit(MediaOff{media::kPersistOff + at});
    EXPECT_FALSE(load_calibration(memory_.pmem())) << at;
    memory_.flip_bit(MediaOff{media::kPersistOff + at});
  }
  EXPECT_TRUE(load_calibration(memory_.pmem()));
  memory_.make_unreadable(MediaOff{0});
  EXPECT_FALSE(load_calibration(memory_.pmem()));
  const size_t events = memory_.journal().size();
  EXPECT_FALSE(store_calibration(memory_.pmem(), given_, 1).ok())
      << "a store might end the process";
  EXPECT_EQ(memory_.journal().size(), events);
}

TEST_F(PersistRecordTest, WhatIsNotOursIsNotOverwritten) {
  memory_.poke(MediaOff{media::kPersistOff + 56}, uint64_t{0xef53});
  memory_.checkpoint();
  const auto stored = store_calibration(memory_.pmem(), given_, 1);
  ASSERT_FALSE(stored.ok());
  EXPECT_EQ(stored.error().code, EEXIST);
  EXPECT_TRUE(memory_.journal().empty());
}

TEST_F(PersistRecordTest, OfAnotherCpuOrMemoryOrVersionItIsMeasuredAgain) {
  const auto expect_none = [&](const char* what, const std::function<void(PersistRecord&)>& how) {
    ASSERT_TRUE(store_calibration(memory_.pmem(), given_, 1).ok());
    change(how);
    EXPECT_FALSE(load_calibration(memory_.pmem())) << what;
  };
  expect_none("cpu", [](auto& r) { r.cpu++; });
  expect_none("version", [](auto& r) { r.version++; });
  expect_none("more methods", [](auto& r) { r.n_methods++; });
  expect_none("far more methods", [](auto& r) { r.n_methods = UINT32_MAX; });
  expect_none("another kind of memory", [](auto& r) { r.pmem_kind++; });
  expect_none("of another size", [](auto& r) { r.bytes++; });
  expect_none("a method in no time", [](auto& r) { r.ns[0][3] = 0; });
  expect_none("a method that the CPU has, not measured", [](auto& r) { r.ns[0][0] = 0; });
}

TEST_F(PersistRecordTest, ErasingTheIdentityErasesIt) {
  ASSERT_TRUE(store_calibration(memory_.pmem(), given_, 1).ok());
  EXPECT_TRUE(erase_identity(memory_.pmem()).ok());
  EXPECT_FALSE(load_calibration(memory_.pmem()));
}

}  // namespace
}  // namespace pcache
