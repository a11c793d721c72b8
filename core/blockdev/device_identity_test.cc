// SPDX-License-Identifier: GPL-2.0-or-later
// Uses an imitation of /sys/dev/block, with its links into a tree of devices.
#include "blockdev/device_identity.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace pcache {
namespace {

namespace fs = std::filesystem;

class DiskIdentityTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = testing::TempDir() + "pcache-sysfs-XXXXXX";
    root_ = mkdtemp(name.data());
    fs::create_directory(root_ / "dev");
    fs::create_directories(root_ / "devices/sda/sda1");
    fs::create_directory_symlink(root_ / "devices/sda", root_ / "dev/8:0");
    fs::create_directory_symlink(root_ / "devices/sda/sda1", root_ / "dev/8:1");
    put("sda/sda1/partition", "1\n");
    put("sda/sda1/start", "2048\n");
  }
  void TearDown() override { fs::remove_all(root_); }

  void put(const std::string& attribute, const std::string& value) {
    const fs::path path = root_ / "devices" / attribute;
    fs::create_directories(path.parent_path());
    std::ofstream(path) << value;
  }
  DeviceIdentity identity(unsigned minor) { return disk_identity(root_ / "dev", 8, minor); }

  fs::path root_;
};

TEST_F(DiskIdentityTest, PrefersTheMostLasting) {
  put("sda/serial", "");
  EXPECT_EQ(identity(0).text, "disk maj:min=8:0");
  EXPECT_FALSE(identity(0).stable);
  put("sda/loop/backing_file", "/images/a b.img\n");
  put("sda/loop/offset", "0\n");
  EXPECT_EQ(identity(0).text, "disk loop=/images/a_b.img");
  put("sda/serial", "S123\n");
  EXPECT_EQ(identity(0).text, "disk serial=S123");
  put("sda/device/wwid", "t10.ATA     QEMU   HARDDISK  \n");
  EXPECT_EQ(identity(0).text, "disk wwid=t10.ATA_QEMU_HARDDISK");
  EXPECT_TRUE(identity(0).stable);
}

TEST_F(DiskIdentityTest, PartitionIsItsDiskAndStart) {
  put("sda/wwid", "eui.0025\n");
  EXPECT_EQ(identity(1).text, "disk wwid=eui.0025 start=2048");
}

// Another disk, larger and of the same name, must not be taken for one that has grown.
TEST_F(DiskIdentityTest, OfAFewNoOtherWillEverBe) {
  const std::pair<const char*, const char*> unique[] = {
      {"wwid", "naa.5002538d4"}, {"wwid", "eui.0025"},         {"device/wwid", "uuid.6f"},
      {"dm/uuid", "LVM-aBcD"},   {"dm/uuid", "CRYPT-LUKS2-1"}, {"md/uuid", "1:2:3:4"},
  };
  const std::pair<const char*, const char*> chosen[] = {
      {"wwid", "t10.ATA_QEMU"},     {"wwid", "nvme.1b36-646973"}, {"serial", "S123"},
      {"device/serial", "disk1"},   {"dm/uuid", "mpath-3600"},    {"dm/uuid", "part1-LVM-a"},
      {"dm/uuid", "CRYPT-PLAIN-x"}, {"loop/backing_file", "/a"},
  };
  for (const auto& [attribute, value] : unique) {
    put(std::string("sda/") + attribute, value);
    EXPECT_TRUE(identity(0).unique) << identity(0).text;
    EXPECT_FALSE(identity(1).unique) << "a partition: " << identity(1).text;
    fs::remove(root_ / "devices/sda" / attribute);
  }
  for (const auto& [attribute, value] : chosen) {
    put(std::string("sda/") + attribute, value);
    EXPECT_FALSE(identity(0).unique) << identity(0).text;
    fs::remove(root_ / "devices/sda" / attribute);
  }
  EXPECT_FALSE(identity(0).unique) << identity(0).text;
}

TEST_F(DiskIdentityTest, MakesHolesAsItsQueueSays) {
  const auto makes_holes = [this](unsigned minor) {
    return disk_makes_holes(root_ / "dev", 8, minor);
  };
  EXPECT_FALSE(makes_holes(0)) << "nothing says so";
  put("sda/queue/write_zeroes_max_bytes", "0\n");
  EXPECT_FALSE(makes_holes(0));
  EXPECT_FALSE(makes_holes(1));
  put("sda/queue/write_zeroes_max_bytes", "33553920\n");
  EXPECT_TRUE(makes_holes(0));
  EXPECT_TRUE(makes_holes(1)) << "a partition has its disk's";
  EXPECT_FALSE(makes_holes(2)) << "there is none";
}

TEST_F(DiskIdentityTest, StackedDevices) {
  put("sda/dm/uuid", "LVM-abc\n");
  EXPECT_EQ(identity(0).text, "disk dm=LVM-abc");
}

TEST_F(DiskIdentityTest, LoopOffsetTellsTwoLoopsOfOneFileApart) {
  put("sda/loop/backing_file", "/images/a.img\n");
  put("sda/loop/offset", "1048576\n");
  EXPECT_EQ(identity(0).text, "disk loop=/images/a.img offset=1048576");
}

TEST_F(DiskIdentityTest, UnknownDeviceHasItsNumber) {
  EXPECT_EQ(identity(7).text, "disk maj:min=8:7");
  EXPECT_FALSE(identity(7).stable);
}

}  // namespace
}  // namespace pcache
