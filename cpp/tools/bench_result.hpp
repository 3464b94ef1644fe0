/// \file
/// What a run found, as the JSON document that `anydepth-deploy report` reads.
#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <vector>

#include "anydepth/anydepth.hpp"
#include "bench_inputs.hpp"
#include "bench_measure.hpp"
#include "bench_options.hpp"

namespace bench {

/// Bytes of this process.
struct Memory {
  std::optional<std::int64_t> before;
  std::optional<std::int64_t> loaded;
};

/// Everything that a result is made from.
struct Found {
  const Options& options;
  const anydepth::Bundle& bundle;
  const anydepth::Session& session;
  const std::vector<anydepth::Depth>& depths;
  const Inputs& inputs;
  const Measured& measured;
  Memory memory;
  double load_ms = 0;
};

/// Throws anydepth::BundleError where the newest comparison of an artifact failed: what computes
/// something else is not worth timing.
void check_passed(const anydepth::Bundle& bundle, const std::vector<anydepth::Artifact>& artifacts,
                  const Options& options);

nlohmann::ordered_json result_of(const Found& found);

/// Tries whether a result can be written there, before anything is measured, and leaves nothing.
/// Throws anydepth::Error.
void check_place(const std::filesystem::path& path);

/// Writes it, whole or not at all. Throws anydepth::Error.
void write_result(const std::filesystem::path& path, const nlohmann::ordered_json& result);

}  // namespace bench
