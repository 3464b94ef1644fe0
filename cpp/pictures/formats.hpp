/// \file
/// The formats, each behind two functions. All throw anydepth::ImageError.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "orientation.hpp"
#include "pictures.hpp"

namespace pictures {

/// Of files that cannot be decoded: `picture PATH cannot be read: REASON`.
[[noreturn]] void unreadable(const std::filesystem::path& path, const std::string& reason);

/// Refuses what is over the budget, by its file's name.
void check_size(const std::filesystem::path& path, std::size_t height, std::size_t width,
                std::size_t max_pixels);

Picture read_ppm(const std::filesystem::path& path, const std::vector<std::uint8_t>& content,
                 std::size_t max_pixels);
std::vector<std::uint8_t> ppm_of(const Picture& picture);

bool has_png();
/// `said`: what the file says of itself, for orientation_of().
Picture read_png(const std::filesystem::path& path, const std::vector<std::uint8_t>& content,
                 std::size_t max_pixels, Said& said);
/// `path`: what it is for, which refusals name.
std::vector<std::uint8_t> png_of(const std::filesystem::path& path, const Picture& picture);

bool has_jpeg();
Picture read_jpeg(const std::filesystem::path& path, const std::vector<std::uint8_t>& content,
                  std::size_t max_pixels, Said& said);

}  // namespace pictures
