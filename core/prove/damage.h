// SPDX-License-Identifier: GPL-2.0-or-later
// Damage: every single bit of an image's metadata is flipped, every page of it made unreadable. The
// cache must never attach and silently serve wrong data: it refuses, the data is right, or the read
// fails.
#pragma once

#include <set>

#include "prove/judge.h"

namespace pcache {

// The result for an image with one fault; by name, for the table.
//   right      attached, and every sector is as it was
//   refused    not attached
//   EIO        attached, and reads of the damaged data fail
//   torn tail  the log's last kset does not verify: it cannot be told from one that a crash tore,
//              as the kernel target writes it. check reports it.
using Outcomes = std::map<std::string, uint64_t>;

class Damage {
 public:
  // A used image made from the base.
  Damage(Base& base, uint64_t seed);
  ~Damage();  // leaves the base as it was

  // Throw Failure. `part` of `parts` equal shares.
  struct Share {
    unsigned part = 0, parts = 1;
    std::string only;  // not empty: the one whose now() is this
    std::function<bool()> over = [] { return false; };
  };
  void flip_every_bit(const Share& share, Outcomes* outcomes);
  void poison_every_page(const Share& share, Outcomes* outcomes);
  uint64_t bits() const;  // that there are to flip
  // What is being tried now, for the message of an abort.
  const std::string& now() const { return now_; }

 private:
  struct Record {
    std::string name;
    uint64_t off;
    uint32_t len;
    std::set<std::string> allowed;  // outcomes of a flipped bit in it
  };
  void collect_records();
  void flip(uint64_t off, unsigned bit, const std::set<std::string>& allowed, Outcomes* outcomes);
  void look(const std::set<std::string>& allowed, Outcomes* outcomes);
  std::string outcome(bool may_be_torn_tail);

  Base& base_;
  const UndoMemory::Mark start_;
  Sectors device_;
  std::vector<std::vector<std::byte>> device_bytes_;
  std::vector<uint64_t> sectors_;
  Oracle::Found found_;
  std::vector<Record> records_;      // metadata, and data where a crc covers it
  std::set<uint64_t> pages_;         // of records and data
  std::set<uint64_t> last_sectors_;  // those that the log's last kset names
  std::string now_;
};

}  // namespace pcache
