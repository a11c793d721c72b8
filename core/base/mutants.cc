// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/mutants.h"

#ifdef PCACHE_MUTANTS

#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

namespace pcache {

namespace {

thread_local bool t_unflushed = false;

constexpr const char* kFence = "fence:";
constexpr const char* kFlush = "flush:";

// The list of all. scripts/prove reads the names here.
constexpr struct {
  std::string_view name;
  Hazard hazard;
} kHazards[] = {
    {"stale-kset", Hazard::kStaleKset},
    {"newest-replica-overwritten", Hazard::kNewestReplicaOverwritten},
    {"replica-index-by-struct-size", Hazard::kReplicaIndexByStructSize},
    {"dirty-tail-ahead-of-disk", Hazard::kDirtyTailAheadOfDisk},
    {"batch-not-waited-for", Hazard::kBatchNotWaitedFor},
    {"crc-before-generation", Hazard::kCrcBeforeGeneration},
    {"fua-forgotten", Hazard::kFuaForgotten},
    {"preflush-forgotten", Hazard::kPreflushForgotten},
    {"preflush-drops-data", Hazard::kPreflushDropsData},
    {"fill-over-newer", Hazard::kFillOverNewer},
    {"reuse-before-durable", Hazard::kReuseBeforeDurable},
    {"no-log-reserve", Hazard::kNoLogReserve},
    {"nobody-wakes", Hazard::kNobodyWakes},
    {"freed-space-wakes-nobody", Hazard::kFreedSpaceWakesNobody},
    {"last-in-first-out", Hazard::kLastInFirstOut},
    {"retry-without-delay", Hazard::kRetryWithoutDelay},
    {"media-numbers-trusted", Hazard::kMediaNumbersTrusted},
    {"log-cycle", Hazard::kLogCycle},
    {"dead-key-used", Hazard::kDeadKeyUsed},
    {"read-past-segment", Hazard::kReadPastSegment},
    {"option-truncated", Hazard::kOptionTruncated},
    {"media-error-is-clean", Hazard::kMediaErrorIsClean},
    {"lost-store-ignored", Hazard::kLostStoreIgnored},
    {"retired-handed-out", Hazard::kRetiredHandedOut},
    {"reads-not-verified", Hazard::kReadsNotVerified},
    {"cut-extents-not-verified", Hazard::kCutExtentsNotVerified},
    {"header-bytes-left", Hazard::kHeaderBytesLeft},
    {"no-identity", Hazard::kNoIdentity},
    {"identity-in-place", Hazard::kIdentityInPlace},
    {"formatted-again", Hazard::kFormattedAgain},
    {"dead-key-references", Hazard::kDeadKeyReferences},
    {"trimmed-too-early", Hazard::kTrimmedTooEarly},
    {"last-flush-ignored", Hazard::kLastFlushIgnored},
    {"superseder-not-durable", Hazard::kSupersederNotDurable},
    {"superseded-across-a-barrier", Hazard::kSupersededAcrossABarrier},
    {"moved-over-newer", Hazard::kMovedOverNewer},
    {"failed-move-passed", Hazard::kFailedMovePassed},
    {"moved-is-clean", Hazard::kMovedIsClean},
    {"freed-before-moved", Hazard::kFreedBeforeMoved},
    {"kept-without-end", Hazard::kKeptWithoutEnd},
    {"zeros-come-back", Hazard::kZerosComeBack},
    {"zeros-not-flushed", Hazard::kZerosNotFlushed},
    {"acknowledged-before-device", Hazard::kAcknowledgedBeforeDevice},
    {"superseded-not-on-device", Hazard::kSupersededNotOnDevice},
    {"front-moves-dirty-tail", Hazard::kFrontMovesDirtyTail},
    {"backend-moves-key-tail", Hazard::kBackendMovesKeyTail},
    {"foreign-dirty-tail", Hazard::kForeignDirtyTail},
    {"backend-skips-flush", Hazard::kBackendSkipsFlush},
    {"generations-not-reloaded", Hazard::kGenerationsNotReloaded},
    {"grown-before-identity", Hazard::kGrownBeforeIdentity},
    {"grown-before-counted", Hazard::kGrownBeforeCounted},
    {"barrier-not-in-log", Hazard::kBarrierNotInLog},
    {"passed-before-moved", Hazard::kPassedBeforeMoved},
    {"stale-pass-taken", Hazard::kStalePassTaken},
    {"set-back-tail-passed", Hazard::kSetBackTailPassed},
};

std::optional<Hazard> hazard_named(std::string_view name) {
  for (const auto& known : kHazards)
    if (known.name == name) return known.hazard;
  return std::nullopt;
}

// "fence:keylog/key_log.cc:89". Takes no memory: tests let allocations fail.
struct SiteName {
  SiteName(const char* what, const CodeSite& site) {
    const std::string_view path = site.file;
    const size_t core = path.rfind("core/");
    snprintf(text, sizeof text, "%s%s:%d", what,
             site.file + (core == path.npos ? 0 : core + strlen("core/")), site.line);
  }
  char text[256];
};

// Holds what PCACHE_MUTANT asks for. If PCACHE_MUTANT_SITES names a file, the process appends to it
// at its end the sites that were reached, one "fence:SITE" or "flush:SITE" a line.
class Registry {
 public:
  Registry() {
    if (const char* wanted = getenv("PCACHE_MUTANT")) wanted_ = wanted;
    if (wanted_.starts_with("hazard:")) hazard_ = hazard_named(&wanted_[strlen("hazard:")]);
    const bool known = hazard_ || wanted_.starts_with("fence:") || wanted_.starts_with("flush:");
    if (!wanted_.empty() && !known) {
      fprintf(stderr,
              "PCACHE_MUTANT=%s: expected hazard:NAME with a NAME of core/base/MUTANTS.md, "
              "fence:SITE or flush:SITE\n",
              wanted_.c_str());
      abort();
    }
    if (const char* sites = getenv("PCACHE_MUTANT_SITES")) sites_file_ = sites;
    looks_at_sites_ = !sites_file_.empty() || (!wanted_.empty() && !hazard_);
  }
  ~Registry() {
    if (sites_file_.empty()) return;
    FILE* file = fopen(sites_file_.c_str(), "a");
    if (!file) return;
    for (size_t i = 0; i < count_; i++)
      fprintf(file, "%s\n", SiteName(reached_[i].what, reached_[i].site).text);
    fclose(file);
  }

  bool is_hazard(Hazard which) const { return hazard_ == which; }
  bool left_out(const char* what, const CodeSite& site) {
    if (!looks_at_sites_) return false;
    if (!sites_file_.empty()) note(what, site);
    return wanted_ == SiteName(what, site).text;
  }

 private:
  struct Reached {
    const char* what;
    CodeSite site;
  };

  void note(const char* what, const CodeSite& site) {
    std::lock_guard lock(mu_);
    for (size_t i = 0; i < count_; i++)
      if (reached_[i].what == what && reached_[i].site.file == site.file &&
          reached_[i].site.line == site.line)
        return;
    if (count_ == reached_.size()) abort();
    reached_[count_++] = {what, site};
  }

  std::string wanted_, sites_file_;
  std::optional<Hazard> hazard_;
  bool looks_at_sites_ = false;
  std::mutex mu_;
  std::array<Reached, 2048> reached_;  // fixed, so it takes no memory: see SiteName
  size_t count_ = 0;
};

Registry& registry() {
  static Registry the_registry;
  return the_registry;
}

}  // namespace

bool hazard(Hazard which) { return registry().is_hazard(which); }

namespace mutants {

bool fence_left_out(const CodeSite& site) { return registry().left_out(kFence, site); }
bool flush_left_out(const CodeSite& site) { return registry().left_out(kFlush, site); }
bool unflushed() { return t_unflushed; }
Unflushed::Unflushed() { t_unflushed = true; }
Unflushed::~Unflushed() { t_unflushed = false; }

}  // namespace mutants

}  // namespace pcache

#endif
