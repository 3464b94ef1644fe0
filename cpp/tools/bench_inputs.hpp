/// \file
/// The pictures a benchmark runs: real ones, or generated ones; the same for the same seed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "anydepth/image.hpp"
#include "bench_options.hpp"
#include "pictures.hpp"

namespace bench {

/// Batches of pictures, decoded and prepared.
struct Inputs {
  std::string source;
  std::size_t count = 0;
  std::string sha256;
  std::vector<pictures::Picture> pictures;
  /// The pictures of each batch, and the batch prepared, float32 [N, 3, H, W].
  std::vector<std::vector<anydepth::ImageView>> batches;
  std::vector<std::vector<float>> prepared;
};

/// At least one batch of `options.batch` pictures, of about `options.pictures` different ones.
/// Where there are too few for a batch, they are used again. Which ones of a folder are drawn, and
/// their hash, are as with `anydepth-deploy bench`. Throws anydepth::ImageError.
Inputs load_inputs(const Options& options, const anydepth::Preprocess& recipe);

}  // namespace bench
