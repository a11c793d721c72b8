// SPDX-License-Identifier: GPL-2.0-or-later
#include "blockdev/nbd_uri.h"

#include <gtest/gtest.h>

namespace pcache {
namespace {

TEST(NbdUriTest, PathsAreNoUris) {
  for (const char* path : {"/dev/sda", "disk.img", "nbd", "nbd:/x", "./nbd://x", "http://host/x",
                           "file:///x", "nbd+unix", "://", "xnbd://host", "NBD://host/"})
    EXPECT_FALSE(is_nbd_uri(path)) << path;
  for (const char* uri : {"nbd://host", "nbds://host:10810/disk", "nbd+vsock://2",
                          "nbd+unix:///?socket=/run/x", "nbds+unix:///disk?socket=/run/x"})
    EXPECT_TRUE(is_nbd_uri(uri)) << uri;
}

TEST(NbdUriTest, OneDeviceHasOneName) {
  EXPECT_EQ(nbd_device_name("nbd://host"), "nbd://host:10809/");
  for (const char* uri : {"nbd://Host/disk", "nbds://host/disk", "nbds://user@host:10809/disk",
                          "nbds://host/disk?tls-certificates=/etc/pki"})
    EXPECT_EQ(nbd_device_name(uri), "nbd://host:10809/disk") << uri;
  EXPECT_EQ(nbd_device_name("nbd://[::1]/disk"), "nbd://[::1]:10809/disk");
  EXPECT_EQ(nbd_device_name("nbd://[::1]:10810/disk"), "nbd://[::1]:10810/disk");
  EXPECT_EQ(nbd_device_name("nbd+vsock://2/x"), "nbd+vsock://2:10809/x");
  EXPECT_EQ(nbd_device_name("nbd+unix:///?socket=/run/x"), "nbd+unix:///?socket=/run/x");
  EXPECT_EQ(nbd_device_name("nbds+unix:///d?tls-psk-file=/k&socket=/run/x"),
            "nbd+unix:///d?socket=/run/x");
}

TEST(NbdUriTest, WhatCouldNameTwoDevicesIsRefused) {
  for (const char* uri :
       {"nbd+unix:///?socket=run/x", "nbd+unix:///?socket=./x", "nbd+unix:///",
        "nbd+unix:///?socket=", "nbd+unix:///?socket=/a&socket=/b", "nbd+unix:///?x=1;socket=/b",
        "nbd+unix:///?%73ocket=/b", "nbd+unix:///?socket=/b#x", "nbd+unix:///?socket=%72un/x",
        "nbd://host/disk?socket=/a"})
    EXPECT_EQ(check_nbd_uri(uri).error().code, EINVAL) << uri;
  for (const char* uri :
       {"nbd+unix:///?socket=/run/x", "nbds+unix:///d?tls-psk-file=/k&socket=/run/x", "nbd://host",
        "nbds://user@[::1]:1/d?tls-certificates=/etc/pki", "nbd+unix:///?socket=%2frun/x",
        "nbd+vsock://2/x"})
    EXPECT_TRUE(check_nbd_uri(uri).ok()) << uri;
  EXPECT_EQ(nbd_device_name("nbd+unix:///?socket=%2Frun/x"), "nbd+unix:///?socket=/run/x");
}

TEST(NbdUriTest, WhatIsDifferentIsNamedDifferently) {
  EXPECT_NE(nbd_device_name("nbd://host/a"), nbd_device_name("nbd://host/b"));
  EXPECT_NE(nbd_device_name("nbd://host/A"), nbd_device_name("nbd://host/a"));
  EXPECT_NE(nbd_device_name("nbd://host:1/a"), nbd_device_name("nbd://host:2/a"));
}

}  // namespace
}  // namespace pcache
