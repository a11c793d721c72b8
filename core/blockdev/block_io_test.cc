// SPDX-License-Identifier: GPL-2.0-or-later
#include "blockdev/block_io.h"

#include <gtest/gtest.h>

namespace pcache {
namespace {

BlockIo make_io(BlockOp op, uint32_t len) {
  BlockIo io;
  io.op = op;
  io.len = len;
  return io;
}

TEST(AccountTransfer, ContinuesAShortTransfer) {
  BlockIo io = make_io(BlockOp::kWrite, 8192);
  EXPECT_FALSE(account_transfer(&io, 512, 512));
  EXPECT_EQ(transfer_off(&io), 512u);
  EXPECT_EQ(transfer_len(&io), 7680u);
  EXPECT_TRUE(account_transfer(&io, 7680, 512));
  EXPECT_EQ(io.result, 0);
}

TEST(AccountTransfer, TheEndOfTheDeviceIsAnError) {
  for (int res : {0, 100}) {
    BlockIo io = make_io(BlockOp::kRead, 4096);
    EXPECT_TRUE(account_transfer(&io, res, 512));
    EXPECT_EQ(io.result, EIO);
  }
}

TEST(AccountTransfer, RetriesWhatIsTransientButNotForEver) {
  for (int code : {EINTR, EAGAIN, ECANCELED}) {
    BlockIo io = make_io(BlockOp::kFlush, 0);
    EXPECT_FALSE(account_transfer(&io, -code, 512));
    EXPECT_TRUE(account_transfer(&io, 0, 512));
    EXPECT_EQ(io.result, 0);
    int tries = 0;
    while (!account_transfer(&io, -code, 512)) ASSERT_LT(++tries, 1000);
    EXPECT_EQ(io.result, code);
  }
}

TEST(AccountTransfer, OtherErrorsAreFinal) {
  BlockIo io = make_io(BlockOp::kRead, 4096);
  EXPECT_TRUE(account_transfer(&io, -ENOSPC, 512));
  EXPECT_EQ(io.result, ENOSPC);
}

TEST(BouncePool, KeepsBuffersOfASize) {
  BouncePool pool;
  void* a = pool.get(5000, 512);
  pool.put(a, 5000);
  EXPECT_NE(a, nullptr);
  void* other_size = pool.get(100, 512);
  EXPECT_NE(other_size, a);
  EXPECT_EQ(pool.get(8192, 512), a);
  void* big = pool.get(4u << 20, 8192);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(big) % 8192, 0u);
  pool.put(big, 4u << 20);
  pool.put(a, 8192);
  pool.put(other_size, 100);
}

}  // namespace
}  // namespace pcache
