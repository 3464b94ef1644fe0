/// \file
/// The options of a run, checked before anything is opened.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "anydepth/depth.hpp"
#include "anydepth/session.hpp"

namespace bench {

struct Options {
  std::filesystem::path bundle;
  std::string depth = "all";
  anydepth::SessionOptions session;
  std::size_t batch = 1;
  /// `interleaved`: rounds of all depths in an order drawn anew each time; `fixed`: one depth at a
  /// time, in stretches that take turns.
  std::string mode = "interleaved";
  /// `raw`, `detections` or `pictures`: what is timed.
  std::string scope = "detections";
  /// Each depth is measured for at least so many seconds and calls.
  double duration = 5;
  std::size_t count = 30;
  /// Fixed: stretches that the time of a depth is cut into.
  std::size_t repeats = 3;
  double warmup = 0.5;
  std::size_t warmup_count = 3;
  std::uint64_t seed = 0;
  std::vector<double> percentiles{50, 90, 95, 99, 99.9};
  /// A picture or a folder of them; generated ones without it.
  std::optional<std::filesystem::path> images;
  std::size_t pictures = 8;
  std::optional<std::filesystem::path> out;
  bool json = false;
  /// Whether calls are made when standard input asks for them, one a line, and not measured here.
  bool on_request = false;
};

/// How to call the program.
const char* usage();

/// Throws anydepth::UsageError.
Options parse(const std::vector<std::string>& words);

/// The depths that `text` names: a comma-separated list of depths, `all` (the ladder) or `every`.
/// Order is kept, repeats are dropped. Throws anydepth::DepthError.
std::vector<anydepth::Depth> select(const anydepth::DepthTable& table, const std::string& text);

}  // namespace bench
