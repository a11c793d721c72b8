// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/seqlock.h"

#include <gtest/gtest.h>

#include <thread>

namespace pcache {
namespace {

struct Value {
  uint64_t a = 0, b = 0, c = 0;
};

TEST(Seqlock, KeepsWhatIsStored) {
  Seqlock<Value> value({1, 2, 3});
  EXPECT_EQ(value.try_load()->c, 3u);
  value.store({4, 5, 6});
  const auto loaded = value.try_load();
  ASSERT_TRUE(loaded);
  EXPECT_EQ(loaded->a, 4u);
  EXPECT_EQ(loaded->b, 5u);
  EXPECT_EQ(loaded->c, 6u);
}

TEST(Seqlock, IsReadWholeAndNeverGoesBack) {
  constexpr uint64_t kStores = 200'000;
  Seqlock<Value> value({});
  std::thread writer([&] {
    for (uint64_t i = 1; i <= kStores; i++) value.store({i, 2 * i, 3 * i});
  });
  for (uint64_t last = 0; last < kStores;) {
    const auto loaded = value.try_load();
    if (!loaded) continue;
    EXPECT_EQ(loaded->b, 2 * loaded->a);
    EXPECT_EQ(loaded->c, 3 * loaded->a);
    EXPECT_GE(loaded->a, last);
    last = loaded->a;
  }
  writer.join();
}

}  // namespace
}  // namespace pcache
