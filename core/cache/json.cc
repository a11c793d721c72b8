// SPDX-License-Identifier: GPL-2.0-or-later
#include "cache/json.h"

#include <algorithm>
#include <charconv>
#include <cstdio>

#include "base/check.h"

namespace pcache {

namespace {

// The length of the UTF-8 character that `text` begins with; 0: this is no UTF-8.
size_t character_bytes(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return 1;
  const size_t n = first >= 0xc2 && first < 0xe0   ? 2
                   : first >= 0xe0 && first < 0xf0 ? 3
                   : first >= 0xf0 && first < 0xf5 ? 4
                                                   : 0;
  if (n == 0 || text.size() < n) return 0;
  for (size_t i = 1; i < n; i++)
    if ((byte(i) & 0xc0) != 0x80) return 0;
  // Not the shortest form, a surrogate, or above U+10FFFF.
  if ((first == 0xe0 && byte(1) < 0xa0) || (first == 0xed && byte(1) >= 0xa0)) return 0;
  if ((first == 0xf0 && byte(1) < 0x90) || (first == 0xf4 && byte(1) >= 0x90)) return 0;
  return n;
}

void print_text(std::string_view text, std::string* out) {
  constexpr std::string_view kEscaped = "\"\\\b\f\n\r\t", kLetters = "\"\\bfnrt";
  *out += '"';
  while (!text.empty()) {
    const size_t n = character_bytes(text);
    const size_t escaped = kEscaped.find(text[0]);
    if (n == 0) {
      *out += "\xef\xbf\xbd";
    } else if (escaped != kEscaped.npos) {
      *out += '\\';
      *out += kLetters[escaped];
    } else if (n == 1 && static_cast<unsigned char>(text[0]) < 0x20) {
      char code[8];
      snprintf(code, sizeof code, "\\u%04x", text[0]);
      *out += code;
    } else {
      out->append(text.substr(0, n));
    }
    text.remove_prefix(std::max<size_t>(n, 1));
  }
  *out += '"';
}

template <typename Number>
void print_number(Number value, std::string* out) {
  char digits[32];
  const auto end = std::to_chars(digits, digits + sizeof digits, value);
  PCACHE_CHECK(end.ec == std::errc());
  out->append(digits, end.ptr);
}

}  // namespace

Json::Json(std::initializer_list<Json> items) {
  const bool is_object = std::all_of(items.begin(), items.end(), [](const Json& item) {
    return item.kind_ == Kind::kArray && item.items_.size() == 2 &&
           item.items_[0].kind_ == Kind::kText;
  });
  kind_ = is_object ? Kind::kObject : Kind::kArray;
  items_.reserve(items.size());
  for (const Json& item : items) {
    if (is_object) names_.push_back(item.items_[0].text_);
    items_.push_back(is_object ? item.items_[1] : item);
  }
}

Json Json::array() {
  Json json;
  json.kind_ = Kind::kArray;
  return json;
}

Json& Json::operator[](std::string_view name) {
  PCACHE_CHECK(kind_ == Kind::kNull || kind_ == Kind::kObject);
  kind_ = Kind::kObject;
  const auto known = std::find(names_.begin(), names_.end(), name);
  if (known != names_.end()) return items_[static_cast<size_t>(known - names_.begin())];
  items_.reserve(items_.size() + 1);
  names_.emplace_back(name);
  return items_.emplace_back();
}

void Json::push_back(Json item) {
  PCACHE_CHECK(kind_ == Kind::kArray);
  items_.push_back(std::move(item));
}

std::string Json::dump() const {
  std::string out;
  print(&out, 0);
  return out;
}

void Json::print(std::string* out, size_t indent) const {
  switch (kind_) {
    case Kind::kNull:
      *out += "null";
      return;
    case Kind::kBool:
      *out += number_ ? "true" : "false";
      return;
    case Kind::kUnsigned:
      print_number(number_, out);
      return;
    case Kind::kSigned:
      print_number(static_cast<int64_t>(number_), out);
      return;
    case Kind::kReal:
      print_number(real_, out);
      return;
    case Kind::kText:
      print_text(text_, out);
      return;
    case Kind::kArray:
    case Kind::kObject:
      break;
  }
  const bool is_object = kind_ == Kind::kObject;
  PCACHE_DCHECK(names_.size() == (is_object ? items_.size() : 0));
  *out += is_object ? '{' : '[';
  for (size_t i = 0; i < items_.size(); i++) {
    *out += i == 0 ? "\n" : ",\n";
    out->append(indent + 2, ' ');
    if (is_object) {
      print_text(names_[i], out);
      *out += ": ";
    }
    items_[i].print(out, indent + 2);
  }
  if (!items_.empty()) {
    *out += '\n';
    out->append(indent, ' ');
  }
  *out += is_object ? '}' : ']';
}

}  // namespace pcache
