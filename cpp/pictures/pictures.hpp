/// \file
/// Picture files as the programs here need them: 8-bit RGB in, boxes drawn, PNG or PPM out.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "anydepth/image.hpp"

namespace pictures {

/// RGB, 8 bits, rows without gaps.
struct Picture {
  std::size_t height = 0;
  std::size_t width = 0;
  std::vector<std::uint8_t> pixels;

  anydepth::ImageView view() const { return {pixels.data(), height, width, 0}; }
};

using Colour = std::array<std::uint8_t, 3>;

/// How a file is read.
struct Reading {
  /// Whether a picture is turned as its EXIF orientation says; else it stays as it is stored.
  bool upright = true;
  /// A picture whose header says that it has more is refused before anything is allocated for it.
  std::size_t max_pixels = anydepth::kMaxPixels;
  /// What it is going to be prepared by; where that takes more than `max_pixels`, it is refused.
  std::optional<anydepth::Preprocess> recipe;
};

/// Decodes a file by what it holds: PPM, and PNG or JPEG where this build has them; with the
/// verdict and the pixels of the Python package. Throws anydepth::ImageError.
Picture read(const std::filesystem::path& path, const Reading& reading = {});

/// The suffixes that write() takes in this build: `.png, .ppm`.
std::string writable();
/// The best of them.
std::string preferred();

/// Throws anydepth::ImageError for another suffix, or where the file cannot be written.
void write(const std::filesystem::path& path, const Picture& picture);

/// Each pixel `times` by `times` times.
Picture enlarged(const Picture& picture, std::size_t times);

/// A rectangle of lines `thickness` pixels wide, within x1, y1, x2, y2; what lies outside is cut.
void draw_box(Picture& picture, const std::array<float, 4>& box, const Colour& colour,
              std::size_t thickness);

/// A colour for a class; neighbours in number are far apart in hue.
Colour class_colour(std::int64_t label);

}  // namespace pictures
