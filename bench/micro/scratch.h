// SPDX-License-Identifier: GPL-2.0-or-later
// What the microbenchmarks work on: pmem in a scratch file, and a sparse backing file. Both are
// unlinked while in use, so that nothing stays behind whatever happens. What cannot be had ends the
// program with a line that says what.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "blockdev/block_device.h"
#include "pmem/pmem.h"

namespace pcache::micro {

// From the command line: where the files go.
struct Places {
  std::string pmem_dir = "/dev/shm";
  std::string backing_dir = "/var/tmp";
};
Places& places();

[[noreturn]] void die(const std::string& text);

// Memory as pmem. Every page of its first `touched_bytes` is there before anything is measured; the
// rest is sparse.
class ScratchMemory {
 public:
  explicit ScratchMemory(uint64_t size_bytes, uint64_t touched_bytes = UINT64_MAX);
  ~ScratchMemory();
  ScratchMemory(const ScratchMemory&) = delete;
  ScratchMemory& operator=(const ScratchMemory&) = delete;

  std::byte* data() { return base_; }
  uint64_t size_bytes() const { return size_; }
  std::unique_ptr<Pmem> make_pmem(const PersistOps* ops) {
    return std::make_unique<Pmem>(base_, size_, ops, nullptr);
  }

 private:
  const uint64_t size_;
  std::byte* base_;
};

std::unique_ptr<BlockDevice> scratch_backing(uint64_t size_bytes);

// `count` random multiples of `step` below `span`; the same ones in every run.
std::vector<uint64_t> random_offsets(size_t count, uint64_t span, uint64_t step);

// The methods that this CPU has; and the one of that name, or the end of the program.
std::vector<const PersistOps*> usable_methods();
const PersistOps* method(const std::string& name);

// A method's stores done by memcpy, and what the method would have issued counted, per thread.
// nullptr: not one of the methods.
const PersistOps* counting(const std::string& name);
struct Issued {
  uint64_t flushes = 0;  // of lines
  uint64_t fences = 0;
};
Issued issued();
void forget_issued();

}  // namespace pcache::micro
