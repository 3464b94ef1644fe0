#include "pictures.hpp"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>

#include "anydepth/errors.hpp"
#include "formats.hpp"

namespace pictures {
namespace {

constexpr double kGoldenAngle = 0.61803398875;

/// Of a file no more is read than pictures within the budget have: 12 bytes a pixel (16 bits of four
/// channels are 8, packed in the worst way 10), and for what a file says of itself.
constexpr std::size_t kBytesOfPixel = 12;
constexpr std::size_t kBytesBeside = std::size_t{64} << 20U;
constexpr std::size_t kBeginning = 8;

/// The first bytes of a file, at most `most`: what lies behind is not looked at, like what lies
/// behind a picture.
std::vector<std::uint8_t> beginning_of(const std::filesystem::path& path, std::size_t most) {
  std::error_code failed;
  const auto size = std::filesystem::file_size(path, failed);
  std::vector<std::uint8_t> content(
      static_cast<std::size_t>(std::min<std::uintmax_t>(failed ? 0 : size, most)));
  std::ifstream file(path, std::ios::binary);
  file.read(reinterpret_cast<char*>(content.data()), static_cast<std::streamsize>(content.size()));
  if (failed || !file.is_open() || file.bad()) {
    unreadable(path, "the system does not let it be read");
  }
  content.resize(static_cast<std::size_t>(file.gcount()));
  return content;
}

std::size_t most_bytes(std::size_t max_pixels) {
  constexpr auto kMost = std::numeric_limits<std::size_t>::max();
  return max_pixels > (kMost - kBytesBeside) / kBytesOfPixel
             ? kMost
             : max_pixels * kBytesOfPixel + kBytesBeside;
}

bool starts(const std::vector<std::uint8_t>& content, const std::string& magic) {
  return content.size() >= magic.size() &&
         std::memcmp(content.data(), magic.data(), magic.size()) == 0;
}

std::string readable() {
  return std::string(has_png() ? "PNG, " : "") + (has_jpeg() ? "JPEG, " : "") + "PPM (P6)";
}

std::string suffix_of(const std::filesystem::path& path) {
  auto suffix = path.extension().string();
  std::transform(suffix.begin(), suffix.end(), suffix.begin(), [](char letter) {
    return letter >= 'A' && letter <= 'Z' ? static_cast<char>(letter - 'A' + 'a') : letter;
  });
  return suffix;
}

/// The pixels as they are stored.
Picture stored(const std::filesystem::path& path, std::size_t max_pixels, Said& said) {
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(path, ignored)) {
    throw anydepth::ImageError("picture " + path.string() + " does not exist");
  }
  const auto beginning = beginning_of(path, kBeginning);  // a file of anything may be huge
  const auto content = [&] { return beginning_of(path, most_bytes(max_pixels)); };
  if (beginning.size() > 2 && starts(beginning, "P6") && std::isspace(beginning[2]) != 0) {
    return read_ppm(path, content(), max_pixels);
  }
  if (has_png() && starts(beginning, "\x89PNG\r\n\x1a\n")) {
    return read_png(path, content(), max_pixels, said);
  }
  if (has_jpeg() && starts(beginning, "\xff\xd8\xff")) {
    return read_jpeg(path, content(), max_pixels, said);
  }
  throw anydepth::ImageError("picture " + path.string() +
                             " is not a picture that this program can read; expected one of " +
                             readable());
}

/// A side of a box as a row or column of the picture.
std::ptrdiff_t place(float side, std::size_t length) {
  const auto last = static_cast<std::ptrdiff_t>(length) - 1;
  return std::clamp(static_cast<std::ptrdiff_t>(std::lround(side)), std::ptrdiff_t{0}, last);
}

}  // namespace

void unreadable(const std::filesystem::path& path, const std::string& reason) {
  throw anydepth::ImageError("picture " + path.string() + " cannot be read: " + reason);
}

void check_size(const std::filesystem::path& path, std::size_t height, std::size_t width,
                std::size_t max_pixels) {
  anydepth::check_picture(height, width, max_pixels, "picture " + path.string());
}

Picture read(const std::filesystem::path& path, const Reading& reading) {
  Said said;
  auto picture = stored(path, reading.max_pixels, said);
  if (reading.upright) {
    picture = turned(std::move(picture), orientation_of(said));
  }
  if (reading.recipe) {
    anydepth::check_picture(picture.height, picture.width, *reading.recipe, reading.max_pixels,
                            "picture " + path.string());
  }
  return picture;
}

std::string preferred() { return has_png() ? ".png" : ".ppm"; }

std::string writable() { return has_png() ? ".png, .ppm" : ".ppm"; }

void write(const std::filesystem::path& path, const Picture& picture) {
  const auto suffix = suffix_of(path);
  if (suffix != ".ppm" && !(suffix == ".png" && has_png())) {
    throw anydepth::ImageError("picture " + path.string() +
                               " cannot be written: expected a name that ends with " + writable());
  }
  const auto content = suffix == ".ppm" ? ppm_of(picture) : png_of(path, picture);
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(content.data()),
             static_cast<std::streamsize>(content.size()));
  file.close();
  if (!file) {
    throw anydepth::ImageError("picture " + path.string() +
                               " cannot be written: choose a folder that exists and has room");
  }
}

Picture enlarged(const Picture& picture, std::size_t times) {
  Picture made{picture.height * times, picture.width * times, {}};
  made.pixels.resize(made.height * made.width * 3);
  for (std::size_t row = 0; row < made.height; ++row) {
    for (std::size_t column = 0; column < made.width; ++column) {
      const auto* from =
          picture.pixels.data() + 3 * ((row / times) * picture.width + column / times);
      std::copy_n(from, 3, made.pixels.data() + 3 * (row * made.width + column));
    }
  }
  return made;
}

void draw_box(Picture& picture, const std::array<float, 4>& box, const Colour& colour,
              std::size_t thickness) {
  const auto left = place(box[0], picture.width);
  const auto top = place(box[1], picture.height);
  const auto right = place(box[2], picture.width);
  const auto bottom = place(box[3], picture.height);
  const auto line = static_cast<std::ptrdiff_t>(thickness);
  for (auto row = top; row <= bottom; ++row) {
    for (auto column = left; column <= right; ++column) {
      const auto edge = std::min({row - top, bottom - row, column - left, right - column});
      if (edge < line) {
        const auto pixel = static_cast<std::size_t>(row) * picture.width +
                           static_cast<std::size_t>(column);
        std::copy(colour.begin(), colour.end(),
                  picture.pixels.begin() + static_cast<std::ptrdiff_t>(3 * pixel));
      }
    }
  }
}

Colour class_colour(std::int64_t label) {
  const auto hue = std::fmod(static_cast<double>(label) * kGoldenAngle, 1.0);
  Colour colour{};
  for (std::size_t channel = 0; channel < 3; ++channel) {
    // The classical hexagon: each channel rises, stays and falls a third of the circle apart.
    const auto turn = std::fmod(hue * 6 + (channel == 0 ? 5 : channel == 1 ? 3 : 1), 6.0);
    const auto down = std::clamp(std::min(turn, 4 - turn), 0.0, 1.0);
    colour[channel] = static_cast<std::uint8_t>(std::lround(255 * 0.95 * (1 - 0.85 * down)));
  }
  return colour;
}

}  // namespace pictures
