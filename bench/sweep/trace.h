// SPDX-License-Identifier: GPL-2.0-or-later
// Trace: the requests of a file, in the order of its lines. Its formats are told by the first line:
//   R|W OFFSET LENGTH                bytes, multiples of 512
//   NUMBER                           a block that is read
//   fio version 2|3 iolog            what fio's write_iolog= leaves; its times are not looked at
// Any of them plain or packed by xz. In the first two, empty lines and those behind # are skipped.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace pcache::sweep {

// In bytes, or in blocks if the trace is of these.
struct Access {
  enum class Op : uint8_t { kRead, kWrite, kFlush };
  Op op = Op::kRead;
  uint64_t off = 0, len = 0;  // of a flush: 0
};

struct Trace {
  std::string file;
  std::string hash;        // of the file, to see that it is still the same
  bool of_blocks = false;  // not of bytes
  bool is_cut = false;     // it has more
  std::vector<Access> accesses;
  uint64_t reads = 0, writes = 0;  // of these
  uint64_t trims = 0;              // left out: the cache has none
};

inline constexpr uint64_t kMostAccesses = 10'000'000;  // fio keeps some 100 bytes of each

// Its first `most` requests; 0: all. Throws Wrong, which names the file and the line.
Trace read_trace(const std::string& file, uint64_t most);

}  // namespace pcache::sweep
