/// \file
/// All gates of a model and how its depths are written: what a table of depths is made from.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "anydepth/depth.hpp"

namespace anydepth {

/// A view: gates and settings belong to somebody else.
class DepthSpace {
 public:
  DepthSpace(const std::vector<Gate>& gates, const std::vector<int>& base)
      : gates_(gates), base_(base) {}

  /// The depth with these settings. Throws DepthError if a gate has no such one.
  Depth depth(const std::vector<int>& settings) const;
  Depth super() const;
  Depth base() const { return depth(base_); }

  /// The depth written as `text`: its settings, `super` or `base`. Throws DepthError.
  Depth parse(const std::string& text) const;

  /// The rungs of a ladder. Throws DepthError for one that does not go from base to super or that
  /// repeats a depth.
  std::vector<Depth> ladder(const std::vector<std::string>& texts) const;

  /// How many depths there are; the largest number where they are more than can be counted.
  std::size_t count() const;

  /// All legal depths, in a fixed order that begins with the fullest. Count them first.
  std::vector<Depth> every() const;

 private:
  /// What stands before a number of layers: a letter where nothing else tells it from a row.
  std::string counted() const;
  std::string format(const std::vector<int>& settings) const;

  const std::vector<Gate>& gates_;
  const std::vector<int>& base_;
};

}  // namespace anydepth
