// SPDX-License-Identifier: GPL-2.0-or-later
// The address of a backing device that a server of NBD (network block device) holds, as libnbd and
// the NBD project's document of URIs have it: nbd://HOST[:PORT]/EXPORT,
// nbd+unix:///EXPORT?socket=PATH, nbd+vsock://CID[:PORT]/EXPORT, and nbds... of each, with TLS.
#pragma once

#include <string>

#include "base/result.h"

namespace pcache {

bool is_nbd_uri(const std::string& path);

// EINVAL: one that libnbd and nbd_device_name() might take for two devices, or for another one in
// another folder.
Status check_nbd_uri(const std::string& uri);

// What of it says which device it is, the same for each way to write it: no user, no options of
// TLS, the port always. For the identity block, and for messages.
std::string nbd_device_name(const std::string& uri);

}  // namespace pcache
