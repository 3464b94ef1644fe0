#include "anydepth/depth.hpp"

#include <algorithm>
#include <set>
#include <utility>

#include "anydepth/errors.hpp"
#include "depth_space.hpp"
#include "text.hpp"

namespace anydepth {
namespace {

/// More rows than any network has: a list of gates that makes so many is damaged.
constexpr std::size_t kMostRows = 1'000'000;

/// What `word` says in digits; none where there is anything else.
std::optional<std::int64_t> number_of(std::string_view word) {
  const bool negative = !word.empty() && word.front() == '-';
  word.remove_prefix(negative ? 1 : 0);
  if (word.empty() || word.size() > 9) {
    return std::nullopt;
  }
  std::int64_t number = 0;
  for (const char sign : word) {
    if (sign < '0' || sign > '9') {
      return std::nullopt;
    }
    number = 10 * number + (sign - '0');
  }
  return negative ? -number : number;
}

/// The number behind `level:`; none where `word` is not such a text.
std::optional<std::int64_t> level_number(std::string_view word) {
  constexpr std::string_view kPrefix = "level:";
  if (lower(word.substr(0, kPrefix.size())) != kPrefix) {
    return std::nullopt;
  }
  return number_of(word.substr(kPrefix.size()));
}

}  // namespace

std::vector<int> Gate::choices() const {
  if (layers == 0) {
    return {0, 1};
  }
  std::vector<int> found;
  for (int count = layers; count > 0; --count) {
    found.push_back(count);
  }
  return found;
}

DepthTable::DepthTable(std::vector<Gate> gates, std::vector<int> base,
                       const std::vector<std::string>& ladder,
                       const std::vector<std::string>& first)
    : gates_(std::move(gates)), base_(std::move(base)) {
  const DepthSpace space(gates_, base_);
  const auto rungs = space.ladder(ladder);
  rows_ = first.empty() ? rungs : space.ladder(first);
  if (space.count() > kMostRows) {
    throw DepthError("these " + std::to_string(gates_.size()) + " gates make more than " +
                     std::to_string(kMostRows) + " depths");
  }
  std::set<std::vector<int>> chosen;
  for (const auto& rung : rows_) {
    chosen.insert(rung.settings);
  }
  for (auto& depth : space.every()) {
    if (chosen.count(depth.settings) == 0) {
      rows_.push_back(std::move(depth));
    }
  }
  for (std::size_t row = 0; row < rows_.size(); ++row) {
    row_of_.emplace(rows_[row].text, row);
  }
  for (const auto& rung : rungs) {
    ladder_.push_back(row_of_.at(rung.text));
  }
}

std::size_t DepthTable::row(const DepthName& name) const {
  if (const auto* number = std::get_if<std::int64_t>(&name.value())) {
    if (*number < 0 || static_cast<std::uint64_t>(*number) >= rows_.size()) {
      throw DepthError("unknown depth row " + std::to_string(*number) + ": " + rows_in_words());
    }
    return static_cast<std::size_t>(*number);
  }
  const auto& text = std::get<std::string>(name.value());
  if (const auto number = number_of(strip(text))) {
    return row(DepthName(*number));
  }
  const auto level = level_number(strip(text));
  if (!level) {
    return row_of_.at(DepthSpace(gates_, base_).parse(text).text);
  }
  if (*level < 0 || static_cast<std::uint64_t>(*level) >= levels()) {
    std::vector<std::string> rungs;
    for (const auto rung : ladder_) {
      rungs.push_back(rows_[rung].text);
    }
    const std::string has =
        levels() == 1 ? "one level, 0" : "levels 0 to " + std::to_string(levels() - 1);
    throw DepthError("unknown depth '" + text + "': the ladder has " + has + " (" +
                     shorten(rungs, 12) + ")");
  }
  return ladder_[static_cast<std::size_t>(*level)];
}

std::string DepthTable::rows_in_words() const {
  if (rows_.size() == 1) {
    return "the only row is 0";
  }
  const std::string words = "rows go from 0 to " + std::to_string(rows_.size() - 1);
  const bool first =
      ladder_.back() + 1 == ladder_.size() && std::is_sorted(ladder_.begin(), ladder_.end());
  if (!first) {
    return words;
  }
  const auto last = levels() - 1;
  return words + ", of which 0 " + (last == 0 ? "is" : "to " + std::to_string(last) + " are") +
         " the ladder";
}

std::optional<std::size_t> DepthTable::level(std::size_t row) const {
  const auto found = std::find(ladder_.begin(), ladder_.end(), row);
  return found == ladder_.end()
             ? std::nullopt
             : std::optional<std::size_t>(static_cast<std::size_t>(found - ladder_.begin()));
}

}  // namespace anydepth
