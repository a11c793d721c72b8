// SPDX-License-Identifier: GPL-2.0-or-later
// Json: a small ordered JSON value to build and print, used like nlohmann's ordered_json, which
// allocates in its destructor, and so ends the process when there is no memory.
//
// Building and dump() may throw std::bad_alloc; the destructor takes no memory.
#pragma once

#include <concepts>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

namespace pcache {

class Json {
 public:
  Json() = default;  // null, and an object once a member is named
  Json(bool value) : kind_(Kind::kBool), number_(value) {}
  template <std::unsigned_integral T>
  Json(T value) : kind_(Kind::kUnsigned), number_(value) {}
  template <std::signed_integral T>
  Json(T value) : kind_(Kind::kSigned), number_(static_cast<uint64_t>(int64_t{value})) {}
  Json(double value) : kind_(Kind::kReal), real_(value) {}
  Json(const char* text) : Json(std::string_view(text)) {}
  Json(const std::string& text) : Json(std::string_view(text)) {}
  Json(std::string_view text) : kind_(Kind::kText), text_(text) {}
  // An object if every item is a pair that begins with a text, else an array.
  Json(std::initializer_list<Json> items);
  static Json array();

  // The member of that name; a new one is null. Only for an object, or null.
  Json& operator[](std::string_view name);
  void push_back(Json item);  // of an array

  // Indented by two. Bytes in a text that are not valid UTF-8 become U+FFFD.
  std::string dump() const;

 private:
  enum class Kind : uint8_t { kNull, kBool, kUnsigned, kSigned, kReal, kText, kArray, kObject };
  void print(std::string* out, size_t indent) const;

  Kind kind_ = Kind::kNull;
  uint64_t number_ = 0;
  double real_ = 0;
  std::string text_;
  std::vector<std::string> names_;  // of items_, in an object
  std::vector<Json> items_;
};

}  // namespace pcache
