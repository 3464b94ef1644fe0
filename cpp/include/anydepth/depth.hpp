/// \file
/// Gates, depths and ladders: value objects with one text form each.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <variant>
#include <vector>

#include "anydepth/export.hpp"

namespace anydepth {

/// One run-time choice. With `layers == 0` a skip gate (0 = runs in full, 1 = refinement skipped),
/// else the number of layers that run, 1 to `layers`.
struct Gate {
  std::string name;
  int group = 0;
  int layers = 0;

  /// All legal settings, from the fullest to the cheapest.
  ANYDEPTH_EXPORT std::vector<int> choices() const;
};

/// A full setting of all gates; `text` is how it is written (`FFTT-F-6`; `full` without gates).
struct Depth {
  std::vector<int> settings;
  std::string text;

  friend bool operator==(const Depth& one, const Depth& other) {
    return one.settings == other.settings;
  }
};

/// A depth as a caller names it: text (`FFTT-F-6`, `super`, `base`, `level:2`) or a row of the
/// table, as a number or in digits. Made from either without a word.
class DepthName {
 public:
  DepthName(std::string text) : value_(std::move(text)) {}         // NOLINT: implicit is meant
  DepthName(const char* text) : value_(std::string(text)) {}       // NOLINT
  DepthName(std::string_view text) : value_(std::string(text)) {}  // NOLINT
  DepthName(int row) : value_(static_cast<std::int64_t>(row)) {}   // NOLINT
  DepthName(std::int64_t row) : value_(row) {}                     // NOLINT
  DepthName(const Depth& depth) : value_(depth.text) {}            // NOLINT

  const std::variant<std::string, std::int64_t>& value() const { return value_; }

 private:
  std::variant<std::string, std::int64_t> value_;
};

/// The rows that a gated graph's `depth` input counts, fixed when it was made: the ladder of that
/// day first (0 = base), then all others. The ladder in use may name any of them.
class ANYDEPTH_EXPORT DepthTable {
 public:
  /// `first`: the ladder that the rows begin with, where it is another than `ladder`. Throws
  /// DepthError for a ladder that does not go from base to super, or that repeats a depth.
  DepthTable(std::vector<Gate> gates, std::vector<int> base, const std::vector<std::string>& ladder,
             const std::vector<std::string>& first = {});

  const std::vector<Gate>& gates() const { return gates_; }
  const std::vector<Depth>& rows() const { return rows_; }
  /// The rows of the ladder's rungs, from base to super.
  const std::vector<std::size_t>& ladder() const { return ladder_; }
  /// Rungs of the ladder.
  std::size_t levels() const { return ladder_.size(); }
  const Depth& super() const { return rows_[ladder_.back()]; }
  const Depth& base() const { return rows_[ladder_.front()]; }

  /// The row of a depth. Throws DepthError for one that the model does not have.
  std::size_t row(const DepthName& name) const;
  /// The depth itself; throws as row() does.
  const Depth& find(const DepthName& name) const { return rows_[row(name)]; }
  /// The level of a row, where it is a rung of the ladder.
  std::optional<std::size_t> level(std::size_t row) const;

 private:
  /// What rows there are, for messages.
  std::string rows_in_words() const;

  std::vector<Gate> gates_;
  std::vector<int> base_;
  std::vector<Depth> rows_;
  std::vector<std::size_t> ladder_;
  std::unordered_map<std::string, std::size_t> row_of_;
};

}  // namespace anydepth
