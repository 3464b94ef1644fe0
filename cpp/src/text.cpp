#include "text.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <utility>

namespace anydepth {
namespace {

using Range = std::pair<char32_t, char32_t>;

constexpr std::array<Range, 10> kSpaces{{
    {0x09, 0x0d},
    {0x1c, 0x20},
    {0x85, 0x85},
    {0xa0, 0xa0},
    {0x1680, 0x1680},
    {0x2000, 0x200a},
    {0x2028, 0x2029},
    {0x202f, 0x202f},
    {0x205f, 0x205f},
    {0x3000, 0x3000},
}};

/// Controls, separators of lines, formatting, private use and what is no character; the Python
/// package has the same list.
constexpr std::array<Range, 25> kUnprintable{{
    {0x00, 0x1f},       {0x7f, 0x9f},       {0xad, 0xad},        {0x600, 0x605},
    {0x61c, 0x61c},     {0x6dd, 0x6dd},     {0x70f, 0x70f},      {0x890, 0x891},
    {0x8e2, 0x8e2},     {0x180e, 0x180e},   {0x200b, 0x200f},    {0x2028, 0x202e},
    {0x2060, 0x206f},   {0xd800, 0xf8ff},   {0xfdd0, 0xfdef},    {0xfeff, 0xfeff},
    {0xfff0, 0xfffb},   {0xfffe, 0xffff},   {0x110bd, 0x110bd},  {0x110cd, 0x110cd},
    {0x13430, 0x1343f}, {0x1bca0, 0x1bca3}, {0x1d173, 0x1d17a},  {0xe0000, 0xe00ff},
    {0xf0000, 0x10ffff},
}};

template <std::size_t Count>
bool within(char32_t point, const std::array<Range, Count>& ranges) {
  return std::any_of(ranges.begin(), ranges.end(), [point](const Range& range) {
    return range.first <= point && point <= range.second;
  });
}

/// Characters of a message, and those that the count of what is left out takes of a text.
constexpr std::size_t kLine = 1000;
constexpr std::size_t kForTheCount = 40;

bool continues(char byte) { return (static_cast<unsigned char>(byte) & 0xc0U) == 0x80U; }

/// The code point that `text` begins with, and its bytes; no bytes where it is not valid.
std::pair<char32_t, std::size_t> first_point(std::string_view text) {
  constexpr std::array<char32_t, 5> kSmallest{0, 0, 0x80, 0x800, 0x10000};
  const auto lead = static_cast<unsigned char>(text.front());
  if (lead < 0x80U) {
    return {lead, 1};
  }
  const std::size_t size = lead >= 0xf0U ? 4 : lead >= 0xe0U ? 3 : 2;
  if (lead < 0xc0U || lead > 0xf4U || text.size() < size) {
    return {0, 0};
  }
  char32_t point = lead & (0x7fU >> size);
  for (std::size_t place = 1; place < size; ++place) {
    if (!continues(text[place])) {
      return {0, 0};
    }
    point = (point << 6U) | (static_cast<unsigned char>(text[place]) & 0x3fU);
  }
  const bool valid =
      point >= kSmallest[size] && point <= 0x10ffff && (point < 0xd800 || point > 0xdfff);
  return {point, valid ? size : 0};
}

template <typename Change>
std::string changed(std::string_view text, Change change) {
  std::string found(text);
  std::transform(found.begin(), found.end(), found.begin(), change);
  return found;
}

/// A letter, or a byte that is no part of one, with what stands for it in a message.
struct Letter {
  std::string_view bytes;
  std::string shown;
};

/// The first letter of `text`, which is not empty.
Letter first_letter(std::string_view text) {
  const auto [point, size] = first_point(text);
  if (size == 0) {
    std::array<char, 8> code{};
    std::snprintf(code.data(), code.size(), "\\x%02x", static_cast<unsigned char>(text.front()));
    return {text.substr(0, 1), code.data()};
  }
  const auto bytes = text.substr(0, size);
  if (!within(point, kUnprintable)) {
    return {bytes, std::string(bytes)};
  }
  switch (point) {
    case '\n':
      return {bytes, "\\n"};
    case '\r':
      return {bytes, "\\r"};
    case '\t':
      return {bytes, "\\t"};
    default:
      break;
  }
  std::array<char, 16> code{};
  const char* form = point < 0x100 ? "\\x%02x" : point < 0x10000 ? "\\u%04x" : "\\U%08x";
  std::snprintf(code.data(), code.size(), form, static_cast<unsigned>(point));
  return {bytes, code.data()};
}

/// The code points of UTF-8.
std::size_t count_points(std::string_view text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char byte) { return !continues(byte); }));
}

}  // namespace

std::string join(const std::vector<std::string>& words, std::string_view glue) {
  std::string text;
  for (std::size_t place = 0; place < words.size(); ++place) {
    text.append(place == 0 ? std::string_view{} : glue).append(words[place]);
  }
  return text;
}

std::string_view strip(std::string_view text) {
  while (!text.empty()) {
    const auto [point, size] = first_point(text);
    if (size == 0 || !within(point, kSpaces)) {
      break;
    }
    text.remove_prefix(size);
  }
  while (!text.empty()) {
    std::size_t start = text.size() - 1;
    while (start > 0 && continues(text[start])) {
      --start;
    }
    const auto [point, size] = first_point(text.substr(start));
    if (size == 0 || start + size != text.size() || !within(point, kSpaces)) {
      break;
    }
    text.remove_suffix(size);
  }
  return text;
}

std::string lower(std::string_view text) {
  return changed(text, [](char letter) {
    return 'A' <= letter && letter <= 'Z' ? static_cast<char>(letter - 'A' + 'a') : letter;
  });
}

std::string upper(std::string_view text) {
  return changed(text, [](char letter) {
    return 'a' <= letter && letter <= 'z' ? static_cast<char>(letter - 'a' + 'A') : letter;
  });
}

std::optional<std::u32string> decode_utf8(std::string_view text) {
  std::u32string found;
  while (!text.empty()) {
    const auto [point, size] = first_point(text);
    if (size == 0) {
      return std::nullopt;
    }
    found.push_back(point);
    text.remove_prefix(size);
  }
  return found;
}

bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    const std::size_t size = first_point(text).second;
    if (size == 0) {
      return false;
    }
    text.remove_prefix(size);
  }
  return true;
}

bool is_printable(std::string_view text) {
  const auto points = decode_utf8(text);
  return points && std::none_of(points->begin(), points->end(), [](char32_t point) {
           return within(point, kUnprintable);
         });
}

std::string readable(std::string_view text) {
  std::string found;
  while (!text.empty()) {
    const auto size = first_point(text).second;
    found += size == 0 ? first_letter(text).shown : std::string(text.substr(0, size));
    text.remove_prefix(std::max<std::size_t>(size, 1));
  }
  return found;
}

std::string shown(std::string_view given, std::size_t most) {
  const std::string text = readable(given);
  const std::size_t count = count_points(text);
  if (count <= most) {
    std::string whole;
    for (std::string_view rest = text; !rest.empty();) {
      const auto letter = first_letter(rest);
      whole += letter.shown;
      rest.remove_prefix(letter.bytes.size());
    }
    if (count_points(whole) <= most) {
      return whole;
    }
  }
  const std::size_t room = most - kForTheCount;
  std::string head;
  std::size_t left_out = count;
  std::size_t places = room - room / 3;
  for (std::string_view rest = text;;) {
    const auto letter = first_letter(rest);
    const auto size = count_points(letter.shown);
    if (size > places) {
      break;
    }
    places -= size;
    head += letter.shown;
    --left_out;
    rest.remove_prefix(letter.bytes.size());
  }
  std::string tail;
  places = room / 3;
  for (std::string_view rest = text;;) {
    std::size_t start = rest.size() - 1;
    while (continues(rest[start])) {
      --start;
    }
    const auto letter = first_letter(rest.substr(start));
    const auto size = count_points(letter.shown);
    if (size > places) {
      break;
    }
    places -= size;
    tail.insert(0, letter.shown);
    --left_out;
    rest.remove_suffix(letter.bytes.size());
  }
  return head + "\u2026 (" + std::to_string(left_out) + " characters left out) \u2026" + tail;
}

std::string in_one_line(std::string_view message) { return shown(message, kLine); }

}  // namespace anydepth
