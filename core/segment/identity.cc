// SPDX-License-Identifier: GPL-2.0-or-later
#include "segment/identity.h"

#include <algorithm>
#include <cstring>
#include <random>

#include "format/codec.h"

namespace pcache {

using media::Identity;

Result<std::optional<Identity>> load_identity(const Pmem& pmem) {
  Identity identity;
  if (!pmem.load(&identity, MediaOff{media::kIdentityOff}, sizeof identity))
    return make_error(EIO, "identity block at 0: media error");
  if (identity.magic == 0) return std::optional<Identity>();
  if (identity.magic != media::kIdentityMagic || identity.crc != record_crc(identity) ||
      identity.version != media::kIdentityVersion)
    return make_error(
        EUCLEAN, "identity block at 0: damaged or of another version (magic %#llx, version %u)",
        static_cast<unsigned long long>(identity.magic), identity.version);
  if (identity.backing_bytes % kSectorBytes != 0 || identity.backing_bytes > INT64_MAX)
    return make_error(EUCLEAN, "identity block at 0: names a backing device of %llu bytes: damaged",
                      static_cast<unsigned long long>(identity.backing_bytes));
  identity.backing[sizeof identity.backing - 1] = 0;
  for (char* c = identity.backing; *c; c++)  // it goes to terminals, in lines
    if (static_cast<unsigned char>(*c) < ' ' || *c == 0x7f) *c = '?';
  return std::optional<Identity>(identity);
}

void write_identity(Pmem& pmem, const BackingIdentity& backing, uint64_t now_unix_s) {
  Identity identity{};
  identity.version = media::kIdentityVersion;
  identity.magic = media::kIdentityMagic;
  std::random_device random;
  for (auto& byte : identity.uuid) byte = static_cast<uint8_t>(random());
  identity.uuid[6] = static_cast<uint8_t>((identity.uuid[6] & 0x0f) | 0x40);  // RFC 4122 version 4
  identity.uuid[8] = static_cast<uint8_t>((identity.uuid[8] & 0x3f) | 0x80);
  identity.backing_bytes = backing.size_bytes;
  identity.created_unix_s = now_unix_s;
  memcpy(identity.backing, backing.text.data(),
         std::min(backing.text.size(), sizeof identity.backing - 1));
  identity.crc = record_crc(identity);
  // Torn, it would read as damaged: the old magic goes first and the new one last, each in one
  // word.
  Identity without_magic = identity;
  without_magic.magic = 0;
  pmem.store(MediaOff{media::kIdentityOff} + offsetof(Identity, magic), &without_magic.magic,
             sizeof without_magic.magic);
  pmem.fence();
  pmem.store(MediaOff{media::kIdentityOff}, &without_magic, sizeof without_magic);
  pmem.fence();
  pmem.store(MediaOff{media::kIdentityOff} + offsetof(Identity, magic), &identity.magic,
             sizeof identity.magic);
  pmem.fence();
}

void erase_identity(Pmem& pmem) {
  static constexpr char kZeros[media::kSuperblockOff - media::kIdentityOff] = {};
  // As in writing one: the magic goes first, in one word.
  pmem.store(MediaOff{media::kIdentityOff} + offsetof(Identity, magic), kZeros,
             sizeof(Identity::magic));
  pmem.fence();
  pmem.store(MediaOff{media::kIdentityOff}, kZeros, sizeof kZeros);
  pmem.fence();
}

Status compare_identity(const Identity& identity, const BackingIdentity& backing) {
  const std::string cut = backing.text.substr(0, sizeof identity.backing - 1);
  if (cut != identity.backing)
    return make_error(EXDEV, "the cache belongs to backing device \"%s\", not to \"%s\"",
                      identity.backing, cut.c_str());
  if (identity.backing_bytes != backing.size_bytes)
    return make_error(
        EXDEV, "the backing device had %llu bytes when the cache was made for it and has %llu now",
        static_cast<unsigned long long>(identity.backing_bytes),
        static_cast<unsigned long long>(backing.size_bytes));
  return {};
}

}  // namespace pcache
