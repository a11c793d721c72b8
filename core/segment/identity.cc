// SPDX-License-Identifier: GPL-2.0-or-later
#include "segment/identity.h"

#include <algorithm>
#include <cstring>
#include <random>

#include "base/mutants.h"
#include "base/one_line.h"
#include "format/codec.h"

namespace pcache {

using media::Identity;

namespace {

constexpr MediaOff kAt{media::kIdentityOff}, kSpareAt{media::kIdentitySpareOff};
static_assert(kSpareAt.v >= kAt.v + sizeof(Identity) &&
              kSpareAt.v + sizeof(Identity) <= media::kPersistOff);

// Of the block at this place.
[[nodiscard]] bool store_magic(Pmem& pmem, MediaOff at, uint64_t magic,
                               const CodeSite& site = CodeSite::current()) {
  if (!pmem.store(at + offsetof(Identity, magic), &magic, sizeof magic, site)) return false;
  pmem.fence(site);
  return true;
}

Error bad_page() {
  return make_error(EIO, "identity block at 0: media error: it cannot be written");
}

// True also when only the magic is damaged: with the right magic the crc fits.
bool is_ours(Identity identity) {
  if (identity.magic == media::kIdentityMagic || identity.magic == media::kIdentityUnfinished)
    return true;
  identity.magic = media::kIdentityMagic;
  return identity.version == media::kIdentityVersion && identity.crc == record_crc(identity);
}

bool is_whole(const Identity& identity) {
  return identity.magic == media::kIdentityMagic && identity.crc == record_crc(identity) &&
         identity.version == media::kIdentityVersion;
}

// Nothing: none that is whole.
std::optional<Identity> whole_at(const Pmem& pmem, MediaOff at) {
  Identity identity;
  if (!pmem.load(&identity, at, sizeof identity) || !is_whole(identity)) return std::nullopt;
  return identity;
}

// A torn block would read as damaged, or as somebody else's. So the magic first says unfinished,
// and is stored last when the rest is durable; each time in one word.
Status store_block(Pmem& pmem, MediaOff at, const Identity& identity) {
  if (!store_magic(pmem, at, media::kIdentityUnfinished)) return bad_page();
  Identity body = identity;
  body.magic = media::kIdentityUnfinished;
  if (!pmem.store(at, &body, sizeof body)) return bad_page();
  pmem.fence();
  if (!store_magic(pmem, at, identity.magic)) return bad_page();
  return {};
}

// The spare counts for nothing from now on, whatever becomes of the block.
Status retire_spare(Pmem& pmem) {
  if (!whole_at(pmem, kSpareAt)) return {};
  if (!store_magic(pmem, kSpareAt, media::kIdentityUnfinished)) return bad_page();
  return {};
}

}  // namespace

FirstPage first_page(const Pmem& pmem) {
  char page[media::kSuperblockOff - media::kIdentityOff];
  if (!pmem.load(page, MediaOff{media::kIdentityOff}, sizeof page)) return FirstPage::kUnreadable;
  if (std::all_of(page, page + sizeof page, [](char c) { return c == 0; }))
    return FirstPage::kZeros;
  Identity identity;
  memcpy(&identity, page, sizeof identity);
  return is_ours(identity) ? FirstPage::kOurs : FirstPage::kForeign;
}

Result<std::optional<Identity>> load_identity(const Pmem& pmem) {
  Identity identity;
  if (!pmem.load(&identity, MediaOff{media::kIdentityOff}, sizeof identity))
    return make_error(EIO, "identity block at 0: media error");
  if (!is_ours(identity)) return std::optional<Identity>();
  if (identity.magic == media::kIdentityUnfinished) {
    const auto spare = whole_at(pmem, kSpareAt);
    if (!spare) return std::optional<Identity>();
    identity = *spare;
  }
  if (!is_whole(identity))
    return make_error(
        EUCLEAN, "identity block at 0: damaged or of another version (magic %#llx, version %u)",
        static_cast<unsigned long long>(identity.magic), identity.version);
  if (identity.backing_bytes % kSectorBytes != 0 || identity.backing_bytes > INT64_MAX)
    return make_error(EUCLEAN, "identity block at 0: names a backing device of %llu bytes: damaged",
                      static_cast<unsigned long long>(identity.backing_bytes));
  identity.backing[sizeof identity.backing - 1] = 0;
  make_one_line(identity.backing);  // it goes to terminals, in lines
  return std::optional<Identity>(identity);
}

Identity make_identity(const BackingIdentity& backing, uint64_t now_unix_s) {
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
  return identity;
}

Status write_identity(Pmem& pmem, const BackingIdentity& backing, uint64_t now_unix_s) {
  return write_identity(pmem, make_identity(backing, now_unix_s));
}

Status write_identity(Pmem& pmem, const Identity& identity) {
  // A spare that counts is kept until the block is whole.
  if (whole_at(pmem, kAt)) {
    // A killed process may have left its last word without making it durable: after a crash there
    // would be no block, and the spare not whole.
    pmem.persist_seen(kAt, sizeof(Identity));
    if (!hazard(Hazard::kIdentityInPlace))
      if (auto spare = store_block(pmem, kSpareAt, identity); !spare) return spare;
  }
  if (auto block = store_block(pmem, kAt, identity); !block) return block;
  return retire_spare(pmem);
}

Status erase_identity(Pmem& pmem) {
  static constexpr char kZeros[media::kSuperblockOff - media::kIdentityOff] = {};
  if (auto retired = retire_spare(pmem); !retired) return retired;
  // As store_block(): if all else is erased and a crash comes, only the unfinished mark is left.
  if (!store_magic(pmem, kAt, media::kIdentityUnfinished)) return bad_page();
  constexpr MediaOff kBehind{kAt.v + offsetof(Identity, magic) + sizeof(Identity::magic)};
  const bool stored = pmem.store(kAt, kZeros, offsetof(Identity, magic)) &&
                      pmem.store(kBehind, kZeros, sizeof kZeros - kBehind.v);
  pmem.fence();
  if (!stored || !store_magic(pmem, kAt, 0)) return bad_page();
  return {};
}

static std::string cut_text(const BackingIdentity& backing) {
  return backing.text.substr(0, sizeof(Identity::backing) - 1);
}

bool has_grown(const Identity& identity, const BackingIdentity& backing) {
  return cut_text(backing) == identity.backing && backing.size_bytes > identity.backing_bytes;
}

Identity with_size(const Identity& identity, uint64_t backing_bytes) {
  Identity made = identity;
  made.backing_bytes = backing_bytes;
  made.crc = record_crc(made);
  return made;
}

Status compare_identity(const Identity& identity, const BackingIdentity& backing) {
  const std::string cut = cut_text(backing);
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
