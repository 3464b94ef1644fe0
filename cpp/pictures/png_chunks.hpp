/// \file
/// The chunks of a PNG, taken as the Python package takes them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "formats.hpp"

namespace pictures {

/// What a PNG holds that is of use here.
struct PngChunks {
  std::uint32_t width = 0;
  std::uint32_t height = 0;
  std::uint8_t depth = 0;
  std::uint8_t colour = 0;
  bool interlaced = false;
  std::string palette;
  /// The compressed pixels, as far as they are there.
  std::string pixels;
};

/// Colour types of the format.
constexpr std::uint8_t kPngGrey = 0;
constexpr std::uint8_t kPngPalette = 3;

/// Reads all chunks: checksums of those before the pixels are compared, later ones are only looked
/// at for what they say. Throws anydepth::ImageError.
PngChunks read_chunks(const std::filesystem::path& path, const std::vector<std::uint8_t>& content,
                      std::size_t max_pixels, Said& said);

}  // namespace pictures
