// SPDX-License-Identifier: GPL-2.0-or-later
#include "micro/counts.h"

#include <malloc.h>

#include <cstdio>
#include <cstdlib>
#include <new>
#include <nlohmann/json.hpp>

#include "micro/rig.h"

namespace pcache::micro {

namespace {

uint64_t g_allocations = 0;  // by operator new: this program's thread alone asks

std::string name_of(const RequestCase& what, bool data_crc) {
  return std::string(what.name) + "/size:" + std::to_string(what.bytes) +
         (data_crc ? "/crc:1" : "/crc:0");
}

// Runs it on a new cache; nothing is left of it.
void run(const RequestCase& what, bool data_crc, const PersistOps* ops, uint64_t operations,
         Issued* total, uint64_t* allocations) {
  ScratchMemory memory(kRigBytes, 0);  // nobody looks at the time
  Rig rig(memory, ops, data_crc);
  what.prepare(rig);
  rig.flush();
  const auto pages = random_offsets(operations, kWorkingSetBytes / kPageBytes, 1);
  // The first one may get what the others use again.
  what.run(rig, 0);
  forget_issued();
  g_allocations = 0;
  for (const uint64_t page : pages) what.run(rig, page);
  *total = issued();
  *allocations = g_allocations;
}

}  // namespace

void count(const std::string& name, uint64_t operations, const std::string& persist) {
  for (const RequestCase& what : request_cases())
    for (const bool data_crc : {false, true}) {
      if (name_of(what, data_crc) != name) continue;
      if (what.written * operations > Rig::room() - 2 * kWorkingSetBytes)
        die("--operations=" + std::to_string(operations) + ": there is room for " +
            std::to_string((Rig::room() - 2 * kWorkingSetBytes) / what.written));
      Issued total;
      uint64_t allocations = 0;
      run(what, data_crc, persist == "counted" ? counting("flushcache") : method(persist),
          operations, &total, &allocations);
      nlohmann::ordered_json out = {{"case", name}, {"operations", operations}};
      if (persist == "counted") {
        out["flushes"] = total.flushes;
        out["fences"] = total.fences;
      }
      out["allocations"] = allocations;
      printf("%s\n", out.dump().c_str());
      return;
    }
  die("--count=" + name + ": no such case; --list_counts names them");
}

void print_countable() {
  for (const RequestCase& what : request_cases())
    for (const bool data_crc : {false, true}) printf("%s\n", name_of(what, data_crc).c_str());
}

}  // namespace pcache::micro

// All of the library's memory comes by here.
void* operator new(size_t bytes) {
  pcache::micro::g_allocations++;
  if (void* memory = malloc(bytes)) return memory;
  throw std::bad_alloc();
}
void* operator new(size_t bytes, std::align_val_t alignment) {
  pcache::micro::g_allocations++;
  const auto a = static_cast<size_t>(alignment);
  if (void* memory = aligned_alloc(a, (bytes + a - 1) / a * a)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { free(memory); }
void operator delete(void* memory, size_t) noexcept { free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { free(memory); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept { free(memory); }
