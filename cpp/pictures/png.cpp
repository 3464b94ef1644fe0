// PNG through libpng, with the same result as the Python package: transparency is dropped, palettes
// and grey become RGB, of 16 bits a channel the upper 8 stay.

#include <cstring>

#include "anydepth/errors.hpp"
#include "formats.hpp"

#if ANYDEPTH_WITH_PNG

#include <png.h>

#include <csetjmp>

namespace pictures {
namespace {

constexpr std::uint32_t kLargestSide = 1U << 16U;

struct Source {
  const std::vector<std::uint8_t>* content;
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
};

[[noreturn]] void fail(png_structp png, png_const_charp message) {
  auto& failure = *static_cast<Failure*>(png_get_error_ptr(png));
  std::strncpy(failure.reason.data(), message, failure.reason.size() - 1);
  failure.reason.back() = '\0';
  std::longjmp(failure.back, 1);
}

void ignore(png_structp, png_const_charp) {}

/// Reads the whole file. What has a destructor belongs to the caller: a jump must not pass over it.
bool decode(png_structp png, png_infop info, Failure& failure, Picture& picture,
            std::vector<png_bytep>& rows) {
  if (setjmp(failure.back) != 0) {
    return false;
  }
  png_set_user_limits(png, kLargestSide, kLargestSide);
  png_read_info(png, info);
  const auto colour = png_get_color_type(png, info);
  if (png_get_bit_depth(png, info) == 16 && (colour & PNG_COLOR_MASK_COLOR) == 0) {
    png_error(png, "it has more than 8 bits a channel: convert it to 8 bits first");
  }
  png_set_expand(png);
  png_set_strip_16(png);
  png_set_strip_alpha(png);
  png_set_gray_to_rgb(png);
  (void)png_set_interlace_handling(png);
  png_read_update_info(png, info);
  picture.height = png_get_image_height(png, info);
  picture.width = png_get_image_width(png, info);
  picture.pixels.resize(picture.height * picture.width * 3);
  for (std::size_t row = 0; row < picture.height; ++row) {
    rows.push_back(picture.pixels.data() + row * picture.width * 3);
  }
  png_read_image(png, rows.data());
  png_read_end(png, nullptr);
  return true;
}

bool encode(png_structp png, png_infop info, Failure& failure, const Picture& picture) {
  if (setjmp(failure.back) != 0) {
    return false;
  }
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

Picture read_png(const std::filesystem::path& path, const std::vector<std::uint8_t>& content) {
  Failure failure{};
  Source source{&content, 0};
  Picture picture;
  std::vector<png_bytep> rows;
  png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &failure, fail, ignore);
  png_infop info = png == nullptr ? nullptr : png_create_info_struct(png);
  bool done = false;
  if (info != nullptr) {
    png_set_read_fn(png, &source, read_bytes);
    done = decode(png, info, failure, picture, rows);
  }
  png_destroy_read_struct(&png, &info, nullptr);
  if (!done) {
    unreadable(path, failure.reason.data());
  }
  return picture;
}

std::vector<std::uint8_t> png_of(const Picture& picture) {
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
    throw anydepth::ImageError(std::string("the picture cannot be made a PNG: ") +
                               failure.reason.data());
  }
  return content;
}

}  // namespace pictures

#else

namespace pictures {

bool has_png() { return false; }

Picture read_png(const std::filesystem::path& path, const std::vector<std::uint8_t>&) {
  unreadable(path, "this build has no libpng");
}

std::vector<std::uint8_t> png_of(const Picture&) {
  throw anydepth::ImageError("the picture cannot be made a PNG: this build has no libpng");
}

}  // namespace pictures

#endif
