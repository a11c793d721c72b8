// SPDX-License-Identifier: GPL-2.0-or-later
#include "sweep/text_lines.h"

#include <lzma.h>
#include <sys/stat.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "sweep/device.h"
#include "sweep/parameter.h"

namespace pcache::sweep {

namespace {

constexpr size_t kChunkBytes = 64 << 10;
constexpr size_t kMostLineBytes = 4096;
constexpr uint64_t kMostXzMemory = 1 << 30;  // xz -9 takes 65 MiB
constexpr std::string_view kXzMagic(
    "\xfd"
    "7zXZ\0",
    6);
// That people pack traces by, and that are not read here.
constexpr std::pair<std::string_view, const char*> kOtherMagics[] = {
    {"\x1f\x8b", "gzip"}, {"\x28\xb5\x2f\xfd", "zstd"}, {"BZh", "bzip2"}, {"PK\x03\x04", "zip"}};

}  // namespace

// One or more streams in a row, as xz writes them.
class TextLines::Xz {
 public:
  explicit Xz(std::string path) : path_(std::move(path)) {
    if (lzma_stream_decoder(&stream_, kMostXzMemory, LZMA_CONCATENATED) != LZMA_OK)
      throw Wrong(path_ + ": no memory to unpack it");
  }
  ~Xz() { lzma_end(&stream_); }
  Xz(const Xz&) = delete;
  Xz& operator=(const Xz&) = delete;

  // Appends what `packed` holds; `last`: nothing comes behind it.
  void unpack(std::string_view packed, bool last, std::string* text) {
    std::array<char, kChunkBytes> out;
    stream_.next_in = reinterpret_cast<const uint8_t*>(packed.data());
    stream_.avail_in = packed.size();
    lzma_ret ret = LZMA_OK;
    do {
      stream_.next_out = reinterpret_cast<uint8_t*>(out.data());
      stream_.avail_out = out.size();
      ret = lzma_code(&stream_, last ? LZMA_FINISH : LZMA_RUN);
      text->append(out.data(), out.size() - stream_.avail_out);
    } while (ret == LZMA_OK && (last || stream_.avail_in > 0 || stream_.avail_out == 0));
    if (ret != LZMA_OK && ret != LZMA_STREAM_END && !(ret == LZMA_BUF_ERROR && !last))
      throw Wrong(path_ + ": is packed by xz, and " +
                  (ret == LZMA_BUF_ERROR        ? "its end is missing"
                   : ret == LZMA_MEMLIMIT_ERROR ? "would take more than 1 GiB to unpack"
                                                : "damaged") +
                  "; xz --test says more");
  }

 private:
  const std::string path_;
  lzma_stream stream_ = LZMA_STREAM_INIT;
};

TextLines::TextLines(const std::string& path) : path_(path) {
  struct stat is;
  if (stat(path.c_str(), &is) != 0) throw Wrong("cannot read " + path + ": " + strerror(errno));
  if (!S_ISREG(is.st_mode)) throw Wrong(path + ": expected a file, found " + kind_of(is.st_mode));
  if (is.st_size == 0) throw Wrong(path + ": is empty; expected a trace");
  in_.open(path, std::ios::binary);
  std::array<char, kXzMagic.size()> first{};
  in_.read(first.data(), first.size());
  const std::string_view begin(first.data(), static_cast<size_t>(in_.gcount()));
  if (!in_.is_open() || in_.bad()) throw Wrong("cannot read " + path + ": " + strerror(errno));
  for (const auto& [magic, name] : kOtherMagics)
    if (begin.starts_with(magic))
      throw Wrong(path + ": is packed by " + name + "; expected text, plain or packed by xz");
  if (begin == kXzMagic) xz_ = std::make_unique<Xz>(path);
  in_.clear();
  in_.seekg(0);
}

TextLines::~TextLines() = default;

void TextLines::read_more() {
  text_.erase(0, at_);
  at_ = 0;
  std::array<char, kChunkBytes> chunk;
  in_.read(chunk.data(), chunk.size());
  const std::string_view got(chunk.data(), static_cast<size_t>(in_.gcount()));
  if (in_.bad()) throw Wrong("cannot read " + path_ + ": " + strerror(errno));
  ended_ = in_.eof();
  if (xz_)
    xz_->unpack(got, ended_, &text_);
  else
    text_.append(got);
}

bool TextLines::next(std::string_view* line) {
  size_t end = text_.find('\n', at_);
  while (end == text_.npos && !ended_ && text_.size() - at_ <= kMostLineBytes) {
    read_more();
    end = text_.find('\n', at_);
  }
  if (end == text_.npos && ended_ && at_ == text_.size()) return false;
  number_++;
  const size_t stop = end == text_.npos ? text_.size() : end;
  if (stop - at_ > kMostLineBytes)
    throw Wrong(path_ + ":" + std::to_string(number_) + ": a line of more than " +
                std::to_string(kMostLineBytes) + " bytes; expected a trace");
  *line = std::string_view(text_).substr(at_, stop - at_);
  at_ = end == text_.npos ? stop : end + 1;
  if (line->ends_with('\r')) line->remove_suffix(1);
  return true;
}

}  // namespace pcache::sweep
