// PNG through libpng, with the verdict and the pixels of the Python package: transparency is
// dropped, palettes and grey become RGB, of 16 bits a channel the upper 8 stay.

#include <algorithm>
#include <array>
#include <cstring>
#include <string>

#include "anydepth/errors.hpp"
#include "formats.hpp"
#include "png_chunks.hpp"

#if ANYDEPTH_WITH_PNG

#include <png.h>

#include <csetjmp>

namespace pictures {
namespace {

constexpr png_uint_32 kLargestSide = 0x7FFFFFFF;  // the budget has judged before

struct Source {
  const std::string* content;
  std::size_t at;
};

void read_bytes(png_structp png, png_bytep out, std::size_t count) {
  auto& source = *static_cast<Source*>(png_get_io_ptr(png));
  if (source.content->size() - source.at < count) {
    png_error(png, "it is cut short");
  }
  std::memcpy(out, source.content->data() + source.at, count);
  source.at += count;
}

void write_bytes(png_structp png, png_bytep data, std::size_t count) {
  auto& content = *static_cast<std::vector<std::uint8_t>*>(png_get_io_ptr(png));
  content.insert(content.end(), data, data + count);
}

/// What libpng calls where it cannot go on: it must not return, and C code must not be thrown
/// through, so it jumps to where the work began.
struct Failure {
  std::jmp_buf back;
  std::array<char, 128> reason;
  /// Of the picture; and whether all were read before: what is wrong behind them does not matter.
  std::size_t rows;
  bool late;
};

[[noreturn]] void fail(png_structp png, png_const_charp message) {
  auto& failure = *static_cast<Failure*>(png_get_error_ptr(png));
  std::strncpy(failure.reason.data(), message, failure.reason.size() - 1);
  failure.reason.back() = '\0';
  std::longjmp(failure.back, 1);
}

[[noreturn]] void fail_reading(png_structp png, png_const_charp message) {
  constexpr int kPasses = 7;
  auto& failure = *static_cast<Failure*>(png_get_error_ptr(png));
  failure.late = png_get_current_pass_number(png) >= kPasses ||
                 png_get_current_row_number(png) >= failure.rows;
  fail(png, message);
}

void ignore(png_structp, png_const_charp) {}

void append(std::string& file, const char* name, const std::string& data) {
  for (const auto shift : {24U, 16U, 8U, 0U}) {
    file += static_cast<char>(data.size() >> shift & 0xFFU);
  }
  file += name + data + std::string(4, '\0');  // checksums are not compared
}

/// A PNG of nothing but pixels, so that libpng has no opinion on the rest.
std::string bare(const PngChunks& chunks) {
  std::string header;
  for (const auto side : {chunks.width, chunks.height}) {
    for (const auto shift : {24U, 16U, 8U, 0U}) {
      header += static_cast<char>(side >> shift & 0xFFU);
    }
  }
  header += static_cast<char>(chunks.depth);
  header += static_cast<char>(chunks.colour);
  header += std::string(2, '\0');
  header += static_cast<char>(chunks.interlaced ? 1 : 0);
  std::string file("\x89PNG\r\n\x1a\n");
  append(file, "IHDR", header);
  if (chunks.colour == kPngPalette) {
    const std::size_t most = std::size_t{3} << chunks.depth;
    auto palette = chunks.palette.substr(0, std::min(chunks.palette.size() / 3 * 3, most));
    append(file, "PLTE", palette.empty() ? std::string(3, '\0') : palette);
  }
  constexpr std::size_t kLongest = 0x7FFFFFFF;
  for (std::size_t at = 0; at < chunks.pixels.size(); at += kLongest) {
    append(file, "IDAT", chunks.pixels.substr(at, kLongest));
  }
  append(file, "IEND", "");
  return file;
}

/// Nothing with a destructor may be made in here: a jump would pass over it.
bool decode(png_structp png, png_infop info, Failure& failure, png_bytepp rows) {
  if (setjmp(failure.back) != 0) {
    return failure.late;
  }
  png_set_user_limits(png, kLargestSide, kLargestSide);
  png_set_crc_action(png, PNG_CRC_QUIET_USE, PNG_CRC_QUIET_USE);
  png_set_benign_errors(png, 1);
  png_read_info(png, info);
  png_set_expand(png);
  png_set_strip_16(png);
  png_set_strip_alpha(png);
  png_set_gray_to_rgb(png);
  (void)png_set_interlace_handling(png);
  png_read_update_info(png, info);
  png_read_image(png, rows);
  return true;
}

bool encode(png_structp png, png_infop info, Failure& failure, const Picture& picture) {
  if (setjmp(failure.back) != 0) {
    return false;
  }
  png_set_user_limits(png, kLargestSide, kLargestSide);  // what was read can be written
  png_set_IHDR(png, info, static_cast<png_uint_32>(picture.width),
               static_cast<png_uint_32>(picture.height), 8, PNG_COLOR_TYPE_RGB,
               PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
  png_write_info(png, info);
  for (std::size_t row = 0; row < picture.height; ++row) {
    png_write_row(png, picture.pixels.data() + row * picture.width * 3);
  }
  png_write_end(png, info);
  return true;
}

}  // namespace

bool has_png() { return true; }

Picture read_png(const std::filesystem::path& path, const std::vector<std::uint8_t>& content,
                 std::size_t max_pixels, Said& said) {
  std::string file;
  Picture picture;
  {
    const auto chunks = read_chunks(path, content, max_pixels, said);
    picture.height = chunks.height;
    picture.width = chunks.width;
    file = bare(chunks);
  }
  picture.pixels.resize(picture.height * picture.width * 3);
  std::vector<png_bytep> rows;
  for (std::size_t row = 0; row < picture.height; ++row) {
    rows.push_back(picture.pixels.data() + row * picture.width * 3);
  }
  Failure failure{};
  failure.rows = picture.height;
  Source source{&file, 0};
  png_structp png =
      png_create_read_struct(PNG_LIBPNG_VER_STRING, &failure, fail_reading, ignore);
  png_infop info = png == nullptr ? nullptr : png_create_info_struct(png);
  bool done = false;
  if (info != nullptr) {
    png_set_read_fn(png, &source, read_bytes);
    done = decode(png, info, failure, rows.data());
  }
  png_destroy_read_struct(&png, &info, nullptr);
  if (!done) {
    unreadable(path, failure.reason.data());
  }
  return picture;
}

std::vector<std::uint8_t> png_of(const std::filesystem::path& path, const Picture& picture) {
  Failure failure{};
  std::vector<std::uint8_t> content;
  png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, &failure, fail, ignore);
  png_infop info = png == nullptr ? nullptr : png_create_info_struct(png);
  bool done = false;
  if (info != nullptr) {
    png_set_write_fn(png, &content, write_bytes, nullptr);
    done = encode(png, info, failure, picture);
  }
  png_destroy_write_struct(&png, &info);
  if (!done) {
    throw anydepth::ImageError("picture " + path.string() +
                               " cannot be written: it cannot be made a PNG (" +
                               failure.reason.data() + "): choose a name that ends with .ppm");
  }
  return content;
}

}  // namespace pictures

#else

namespace pictures {

bool has_png() { return false; }

Picture read_png(const std::filesystem::path& path, const std::vector<std::uint8_t>&, std::size_t,
                 Said&) {
  unreadable(path, "this build has no libpng");
}

std::vector<std::uint8_t> png_of(const std::filesystem::path& path, const Picture&) {
  throw anydepth::ImageError("picture " + path.string() +
                             " cannot be written: this build has no libpng");
}

}  // namespace pictures

#endif
