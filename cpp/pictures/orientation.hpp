/// \file
/// Which way up a picture is stored, and how it is turned.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "pictures.hpp"

namespace pictures {

/// What a file says of itself, where that may tell its orientation.
struct Said {
  /// EXIF data, with or without the six bytes that they begin with in a JPEG.
  std::optional<std::string> exif;
  /// Texts of a PNG by their keywords; XMP data of both formats are under `xmp`.
  std::map<std::string, std::string> texts;
};

/// 1 to 8, as EXIF counts; 1 where nothing is said. EXIF data go first, then the digits that some
/// programs write into a PNG, then XMP data.
int orientation_of(const Said& said);

/// The picture as it is meant to be seen.
Picture turned(Picture picture, int orientation);

}  // namespace pictures
