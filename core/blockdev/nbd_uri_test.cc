// SPDX-License-Identifier: GPL-2.0-or-later
#include "blockdev/nbd_uri.h"

#include <gtest/gtest.h>

namespace pcache {
namespace {

TEST(NbdUriTest, PathsAreNoUris) {
  for (const char* path : {"/dev/sda", "disk.img", "nbd", "nbd:/x", "./nbd://x", "http://host/x",
                           "file:///x", "nbd+unix", "://", "xnbd://host"})
    EXPECT_FALSE(is_nbd_uri(path)) << path;
  for (const char* uri : {"nbd://host", "NBD://host/", "nbds://host:10810/disk", "nbd+vsock://2",
                          "nbd+unix:///?socket=/run/x", "nbds+unix:///disk?socket=/run/x"})
    EXPECT_TRUE(is_nbd_uri(uri)) << uri;
}

TEST(NbdUriTest, OneDeviceHasOneName) {
  EXPECT_EQ(nbd_device_name("nbd://host"), "nbd://host:10809/");
  for (const char* uri : {"nbd://Host/disk", "nbds://host/disk", "NBDS://user@host:10809/disk",
                          "nbds://host/disk?tls-certificates=/etc/pki"})
    EXPECT_EQ(nbd_device_name(uri), "nbd://host:10809/disk") << uri;
  EXPECT_EQ(nbd_device_name("nbd://[::1]/disk"), "nbd://[::1]:10809/disk");
  EXPECT_EQ(nbd_device_name("nbd://[::1]:10810/disk"), "nbd://[::1]:10810/disk");
  EXPECT_EQ(nbd_device_name("nbd+vsock://2/x"), "nbd+vsock://2:10809/x");
  EXPECT_EQ(nbd_device_name("nbd+unix:///?socket=/run/x"), "nbd+unix:///?socket=/run/x");
  EXPECT_EQ(nbd_device_name("nbds+unix:///d?tls-psk-file=/k&socket=/run/x"),
            "nbd+unix:///d?socket=/run/x");
}

TEST(NbdUriTest, WhatIsDifferentIsNamedDifferently) {
  EXPECT_NE(nbd_device_name("nbd://host/a"), nbd_device_name("nbd://host/b"));
  EXPECT_NE(nbd_device_name("nbd://host/A"), nbd_device_name("nbd://host/a"));
  EXPECT_NE(nbd_device_name("nbd://host:1/a"), nbd_device_name("nbd://host:2/a"));
}

}  // namespace
}  // namespace pcache
