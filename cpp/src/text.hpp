/// \file
/// Text as Python treats it: UTF-8, stripped, lowered, joined, and made fit for one line.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace anydepth {

std::string join(const std::vector<std::string>& words, std::string_view glue);

/// Without white space at both ends, that of Unicode included.
std::string_view strip(std::string_view text);

/// Letters of ASCII in lower case or upper case; others as they are.
std::string lower(std::string_view text);
std::string upper(std::string_view text);

/// The code points of UTF-8; none for bytes that are not valid UTF-8.
std::optional<std::u32string> decode_utf8(std::string_view text);

/// Whether bytes are valid UTF-8.
bool is_utf8(std::string_view text);

/// Whether `text` is UTF-8 in which nothing has to be escaped.
bool is_printable(std::string_view text);

/// `text` as UTF-8: bytes that are not are written as `\xe9`.
std::string readable(std::string_view text);

/// `text` as a terminal may show it: what cannot be printed is escaped (`\n`, `\x1b`, `\u202e`),
/// bytes that are not UTF-8 too, and of more than `most` characters the middle is left out and
/// counted.
std::string shown(std::string_view text, std::size_t most = 300);

/// A whole message as `shown`: its begin, which names a file, and its end, which says what to do,
/// stay.
std::string in_one_line(std::string_view message);

}  // namespace anydepth
