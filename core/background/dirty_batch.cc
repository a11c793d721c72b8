// SPDX-License-Identifier: GPL-2.0-or-later
#include "background/dirty_batch.h"

#include <algorithm>
#include <numeric>
#include <span>

#include "base/check.h"

namespace pcache {

namespace {

constexpr uint32_t kNobody = UINT32_MAX;

// Keys of one 4 MiB range that overlap each other, directly or through others: each sector goes to
// the one that stands last in the log.
void resolve(const std::vector<media::Key>& keys, std::span<uint32_t> cluster,
             std::vector<DirtyBatch::Piece>* out) {
  std::sort(cluster.begin(), cluster.end());  // indexes are log order
  uint64_t start = UINT64_MAX, end = 0;
  for (const uint32_t k : cluster) {
    start = std::min(start, keys[k].off);
    end = std::max(end, keys[k].off + keys[k].len);
  }
  std::vector<uint32_t> owner((end - start) / kSectorBytes, kNobody);
  for (const uint32_t k : cluster)
    std::fill_n(owner.begin() + static_cast<ptrdiff_t>((keys[k].off - start) / kSectorBytes),
                keys[k].len / kSectorBytes, k);
  for (size_t at = 0; at < owner.size();) {
    PCACHE_DCHECK(owner[at] != kNobody);  // or they would be two clusters
    size_t stop = at + 1;
    while (stop < owner.size() && owner[stop] == owner[at]) stop++;
    out->push_back({{start + at * kSectorBytes, (stop - at) * kSectorBytes}, owner[at]});
    at = stop;
  }
}

}  // namespace

void DirtyBatch::clear() {
  keys_.clear();
  appended_bytes_ = 0;
}

void DirtyBatch::add(const media::Key& key) {
  PCACHE_DCHECK(key.len > 0 && key.off % kSectorBytes == 0 && key.len % kSectorBytes == 0);
  keys_.push_back(key);
  appended_bytes_ += key.len;
}

std::vector<DirtyBatch::Piece> DirtyBatch::pieces() const {
  std::vector<uint32_t> order(keys_.size());
  std::iota(order.begin(), order.end(), 0u);
  std::sort(order.begin(), order.end(),
            [this](uint32_t a, uint32_t b) { return keys_[a].off < keys_[b].off; });
  std::vector<Piece> out;
  out.reserve(keys_.size());
  for (size_t at = 0; at < order.size();) {
    uint64_t end = keys_[order[at]].off + keys_[order[at]].len;
    size_t stop = at + 1;
    for (; stop < order.size() && keys_[order[stop]].off < end; stop++)
      end = std::max(end, keys_[order[stop]].off + keys_[order[stop]].len);
    if (stop == at + 1)
      out.push_back({{keys_[order[at]].off, keys_[order[at]].len}, order[at]});
    else
      resolve(keys_, {order.data() + at, stop - at}, &out);
    at = stop;
  }
  PCACHE_DCHECK(std::adjacent_find(out.begin(), out.end(), [](const Piece& a, const Piece& b) {
                  return a.extent.end() > b.extent.off;
                }) == out.end());
  return out;
}

}  // namespace pcache
