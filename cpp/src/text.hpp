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

/// `text` itself where all of it can be printed, else quoted and escaped.
std::string printable(const std::string& text);

}  // namespace anydepth
