/// \file
/// Picture files as the programs here need them: 8-bit RGB in, boxes drawn, PNG or PPM out.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
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

/// Decodes a file by what it holds: PPM, and PNG or JPEG where this build has them. With `upright`
/// a JPEG is turned as its EXIF orientation says. Throws anydepth::ImageError.
Picture read(const std::filesystem::path& path, bool upright = true);

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
