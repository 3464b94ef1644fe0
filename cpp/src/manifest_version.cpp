#include "manifest_version.hpp"

#include <algorithm>
#include <string_view>
#include <variant>

namespace anydepth {
namespace {

constexpr std::size_t kMostDigits = 9;
/// Longest version of this package that is repeated in a message.
constexpr std::size_t kLongestTool = 32;

bool is_digit(char sign) { return '0' <= sign && sign <= '9'; }

/// A number without zeros before it.
std::optional<std::int64_t> number_of(std::string_view text) {
  const bool valid = !text.empty() && text.size() <= kMostDigits &&
                     std::all_of(text.begin(), text.end(), is_digit) &&
                     (text.size() == 1 || text.front() != '0');
  return valid ? std::optional<std::int64_t>(std::stoll(std::string(text))) : std::nullopt;
}

bool names_a_tool(std::string_view text) {
  const auto fits = [](char sign) {
    return is_digit(sign) || ('a' <= sign && sign <= 'z') || ('A' <= sign && sign <= 'Z') ||
           sign == '.' || sign == '+' || sign == '-';
  };
  return !text.empty() && text.size() <= kLongestTool && is_digit(text.front()) &&
         std::all_of(text.begin(), text.end(), fits);
}

}  // namespace

std::optional<ManifestVersion> version_of(const Json& value) {
  if (const auto* whole = std::get_if<std::int64_t>(&value.value)) {
    return ManifestVersion{*whole, 0};
  }
  const auto* text = std::get_if<std::string>(&value.value);
  const auto dot = text != nullptr ? text->find('.') : std::string::npos;
  if (dot == std::string::npos) {
    return std::nullopt;
  }
  const auto major = number_of(std::string_view(*text).substr(0, dot));
  const auto minor = number_of(std::string_view(*text).substr(dot + 1));
  if (!major || !minor || *minor == 0) {
    return std::nullopt;
  }
  return ManifestVersion{*major, *minor};
}

std::string written_version(const ManifestVersion& version) {
  return version.minor == 0 ? std::to_string(version.major) : version_text(version);
}

std::string version_text(const ManifestVersion& version) {
  return std::to_string(version.major) + "." + std::to_string(version.minor);
}

std::string made_it(const Json& manifest) {
  std::string advice = "install the version that made it";
  if (const auto* members = std::get_if<JsonMembers>(&manifest.value)) {
    for (const auto& [key, value] : *members) {
      const auto* tool = std::get_if<std::string>(&value.value);
      if (key == "tool_version" && tool != nullptr && names_a_tool(*tool)) {
        advice += " (" + *tool + ")";
      }
    }
  }
  return advice;
}

}  // namespace anydepth
