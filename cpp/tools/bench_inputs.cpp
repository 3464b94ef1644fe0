#include "bench_inputs.hpp"

#include <algorithm>
#include <array>
#include <deque>
#include <fstream>
#include <random>
#include <set>
#include <system_error>
#include <utility>

#include "anydepth/errors.hpp"
#include "sha256.hpp"
#include "text.hpp"

namespace bench {
namespace {

constexpr std::size_t kLargestGenerated = 640;
constexpr std::size_t kSmallestGenerated = 32;
constexpr std::size_t kShapes = 12;

const std::array<const char*, 10> kSuffixes{".jpg", ".jpeg", ".jpe", ".jfif", ".png",
                                            ".bmp", ".webp", ".tif", ".tiff", ".ppm"};

const std::array<std::string, 6> kBeginnings{
    "\xff\xd8\xff",
    "\x89PNG\r\n\x1a\n",
    std::string("II*\0", 4),
    std::string("MM\0*", 4),
    "P6\n",
    "P6 ",
};

std::string digest(const std::string& text) {
  anydepth::Sha256 made;
  made.update(text.data(), text.size());
  return made.finish();
}

/// Whether the first bytes of a file are those of a picture.
bool begins_like_a_picture(const std::filesystem::path& path) {
  std::array<char, 32> read{};
  std::ifstream file(path, std::ios::binary);
  file.read(read.data(), static_cast<std::streamsize>(read.size()));
  const std::string head(read.data(), static_cast<std::size_t>(file.gcount()));
  if (head.rfind("RIFF", 0) == 0) {
    return head.size() >= 12 && head.compare(8, 4, "WEBP") == 0;
  }
  if (head.rfind("BM", 0) == 0) {  // then 12 bytes, and the length of the next header
    constexpr std::array<unsigned char, 7> kLengths{12, 40, 52, 56, 64, 108, 124};
    const auto length = head.size() >= 18 ? static_cast<unsigned char>(head[14]) : 0;
    return std::find(kLengths.begin(), kLengths.end(), length) != kLengths.end() &&
           head.compare(15, 3, std::string(3, '\0')) == 0;
  }
  return std::any_of(kBeginnings.begin(), kBeginnings.end(),
                     [&](const std::string& begins) { return head.rfind(begins, 0) == 0; });
}

bool is_picture(const std::filesystem::directory_entry& entry) {
  const auto name = entry.path().filename().string();
  auto suffix = entry.path().extension().string();
  std::transform(suffix.begin(), suffix.end(), suffix.begin(), [](char letter) {
    return letter >= 'A' && letter <= 'Z' ? static_cast<char>(letter - 'A' + 'a') : letter;
  });
  std::error_code ignored;
  const bool file = entry.is_regular_file(ignored);
  if (name.rfind("._", 0) == 0) {  // what a Mac leaves beside files on other disks
    return false;
  }
  if (suffix.empty()) {
    return file && name[0] != '.' && begins_like_a_picture(entry.path());
  }
  // A link that leads nowhere is for the reader to refuse.
  return (file || (entry.is_symlink(ignored) && !entry.exists(ignored))) &&
         std::find(kSuffixes.begin(), kSuffixes.end(), suffix) != kSuffixes.end();
}

/// The pictures in a folder and those below, linked ones included, each folder once: what the
/// Python package finds, by the same names.
std::vector<std::filesystem::path> pictures_in(const std::filesystem::path& source) {
  std::vector<std::filesystem::path> found;
  std::set<std::filesystem::path> seen;
  std::deque<std::filesystem::path> folders{source};
  std::deque<std::filesystem::path> links;  // last: what is reached on two ways needs no link
  while (!folders.empty() || !links.empty()) {
    auto& waiting = folders.empty() ? links : folders;
    const auto folder = waiting.front();
    waiting.pop_front();
    std::vector<std::filesystem::directory_entry> entries;
    try {
      if (!seen.insert(std::filesystem::canonical(folder)).second) {
        continue;
      }
      for (const auto& entry : std::filesystem::directory_iterator(folder)) {
        entries.push_back(entry);
      }
    } catch (const std::filesystem::filesystem_error& error) {
      throw anydepth::ImageError("folder " + folder.string() + " cannot be looked into: " +
                                 error.code().message() +
                                 "; let it be read, or move it elsewhere");
    }
    std::sort(entries.begin(), entries.end());
    for (const auto& entry : entries) {
      std::error_code ignored;
      if (entry.is_directory(ignored)) {
        (entry.is_symlink(ignored) ? links : folders).push_back(entry.path());
      } else if (is_picture(entry)) {
        found.push_back(entry.path());
      }
    }
  }
  return found;
}

/// At most `count` pictures of a folder, drawn by the seed and their paths in it; or the one named.
std::vector<std::filesystem::path> choose(const std::filesystem::path& source, std::size_t count,
                                          std::uint64_t seed) {
  if (!std::filesystem::is_directory(source)) {
    return {source};
  }
  std::vector<std::pair<std::string, std::filesystem::path>> found;
  for (const auto& path : pictures_in(source)) {
    const auto name = path.lexically_relative(source).generic_string();
    found.emplace_back(digest(std::to_string(seed) + "/" + name), path);
  }
  if (found.empty()) {
    throw anydepth::ImageError("folder " + source.string() + " holds no picture");
  }
  std::sort(found.begin(), found.end());
  found.resize(std::min(count, found.size()));
  std::vector<std::filesystem::path> paths;
  for (const auto& item : found) {
    paths.push_back(item.second);
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

/// Noise with rectangles and discs on it: with nothing to find, suppression would have nothing to
/// do.
pictures::Picture render(std::size_t side, std::uint64_t seed) {
  std::mt19937_64 draw(seed);
  pictures::Picture picture{side, side, std::vector<std::uint8_t>(side * side * 3)};
  for (auto& value : picture.pixels) {
    value = static_cast<std::uint8_t>(96 + draw() % 64);
  }
  for (std::size_t shape = 0; shape < kShapes; ++shape) {
    const auto radius = side / 20 + draw() % (side / 6);
    const auto row = draw() % side;
    const auto column = draw() % side;
    const auto colour = draw();
    const bool disc = draw() % 2 == 0;
    for (auto y = row > radius ? row - radius : 0; y < std::min(side, row + radius); ++y) {
      for (auto x = column > radius ? column - radius : 0; x < std::min(side, column + radius);
           ++x) {
        const auto down = y > row ? y - row : row - y;
        const auto right = x > column ? x - column : column - x;
        if (disc && down * down + right * right > radius * radius) {
          continue;
        }
        for (std::size_t channel = 0; channel < 3; ++channel) {
          picture.pixels[3 * (y * side + x) + channel] =
              static_cast<std::uint8_t>(colour >> (8 * channel));
        }
      }
    }
  }
  return picture;
}

void read_pictures(Inputs& inputs, const Options& options, const anydepth::Preprocess& recipe) {
  pictures::Reading reading;
  reading.max_pixels = options.session.max_pixels;
  reading.recipe = recipe;
  const auto& source = *options.images;
  std::vector<std::string> hashes;
  for (const auto& path : choose(source, options.pictures, options.seed)) {
    inputs.pictures.push_back(pictures::read(path, reading));
    hashes.push_back(anydepth::file_sha256(path));
  }
  std::sort(hashes.begin(), hashes.end());
  std::string lines;
  for (const auto& hash : hashes) {
    lines += hash + "\n";
  }
  inputs.sha256 = digest(lines);
  const auto name = (source.has_filename() ? source : source.parent_path()).filename();
  inputs.source = anydepth::readable(name.string());
}

void generate_pictures(Inputs& inputs, const Options& options,
                       const anydepth::Preprocess& recipe) {
  const auto side = std::clamp(std::max(recipe.height, recipe.width), kSmallestGenerated,
                               kLargestGenerated);
  std::string bytes;
  for (std::size_t index = 0; index < options.pictures; ++index) {
    inputs.pictures.push_back(render(side, options.seed * 1000 + index));
    const auto& pixels = inputs.pictures.back().pixels;
    bytes.append(pixels.begin(), pixels.end());
  }
  inputs.sha256 = digest(bytes);
  inputs.source = "generated";
}

}  // namespace

Inputs load_inputs(const Options& options, const anydepth::Preprocess& recipe) {
  Inputs inputs;
  if (options.images) {
    read_pictures(inputs, options, recipe);
  } else {
    generate_pictures(inputs, options, recipe);
  }
  inputs.count = inputs.pictures.size();
  const auto batch = options.batch;
  const auto starts = inputs.count >= batch ? inputs.count - batch + 1 : 1;
  for (std::size_t start = 0; start < starts; start += batch) {
    std::vector<anydepth::ImageView> views;
    for (std::size_t offset = 0; offset < batch; ++offset) {
      views.push_back(inputs.pictures[(start + offset) % inputs.count].view());
    }
    inputs.prepared.push_back(
        anydepth::prepare_batch(views, recipe, options.session.max_pixels).images);
    inputs.batches.push_back(std::move(views));
  }
  return inputs;
}

}  // namespace bench
