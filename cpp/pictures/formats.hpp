/// \file
/// The formats, each behind two functions. All throw anydepth::ImageError.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "pictures.hpp"

namespace pictures {

/// Of files that cannot be decoded: `picture PATH cannot be read: REASON`.
[[noreturn]] void unreadable(const std::filesystem::path& path, const std::string& reason);

Picture read_ppm(const std::filesystem::path& path, const std::vector<std::uint8_t>& content);
std::vector<std::uint8_t> ppm_of(const Picture& picture);

bool has_png();
Picture read_png(const std::filesystem::path& path, const std::vector<std::uint8_t>& content);
std::vector<std::uint8_t> png_of(const Picture& picture);

bool has_jpeg();
/// `orientation`: as EXIF counts, 1 to 8; 1 where the file says nothing.
Picture read_jpeg(const std::filesystem::path& path, const std::vector<std::uint8_t>& content,
                  int& orientation);

/// The orientation in the EXIF data of a JPEG's APP1 segment; 1 where there is none.
int exif_orientation(const std::uint8_t* data, std::size_t size);
/// The picture as it is meant to be seen.
Picture turned(const Picture& picture, int orientation);

}  // namespace pictures
