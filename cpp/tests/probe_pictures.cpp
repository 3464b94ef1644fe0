#include "anydepth/errors.hpp"
#include "pictures.hpp"
#include "probe.hpp"

namespace probe {
namespace {

/// Per file of `paths` its height and width, or what is wrong with it; the pixels of all, one
/// behind the other, go into the file `out`.
Json read_pictures(const Json& given) {
  pictures::Reading reading;
  reading.upright = given.value("upright", reading.upright);
  reading.max_pixels = given.value("max_pixels", reading.max_pixels);
  Json found = Json::array();
  std::vector<std::uint8_t> pixels;
  for (const auto& path : given.at("paths").get<std::vector<std::string>>()) {
    try {
      const auto picture = pictures::read(path, reading);
      found.push_back({picture.height, picture.width});
      pixels.insert(pixels.end(), picture.pixels.begin(), picture.pixels.end());
    } catch (const anydepth::ImageError& error) {
      found.push_back(error.what());
    }
  }
  write_array(given.at("out"), pixels);
  return found;
}

/// Writes a black picture to `path`.
Json write_picture(const Json& given) {
  pictures::Picture picture{given.at("height"), given.at("width"), {}};
  picture.pixels.resize(3 * picture.height * picture.width);
  pictures::write(given.at("path").get<std::string>(), picture);
  return nullptr;
}

}  // namespace

void add_pictures(Calls& calls) {
  calls["read_pictures"] = read_pictures;
  calls["write_picture"] = write_picture;
}

}  // namespace probe
