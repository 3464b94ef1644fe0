// Detects objects in pictures at a depth, and draws them:
//
//     anydepth-detect engines/r50 street.png --depth FTFT-F-5 --out found.png
//     anydepth-detect engines/r50 photos/*.jpg --batch 8 --out drawn

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <new>
#include <optional>
#include <set>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "anydepth/anydepth.hpp"
#include "pictures.hpp"
#include "show.hpp"

namespace {

constexpr const char* kUsage =
    "usage: anydepth-detect BUNDLE PICTURE... [--depth super|base|level:K|FFTT-F-6] "
    "[--threshold 0.5] [--batch 1] [--out FILE, or FOLDER for several] [--runtime NAME] [--layout gated|set|stages] "
    "[--precision NAME] [--threads N] [--max-pixels 89478485] [--json]";

struct Arguments {
  std::filesystem::path bundle;
  std::vector<std::filesystem::path> pictures;
  std::string depth = "super";
  float threshold = 0.5F;
  std::size_t batch = 1;
  std::optional<std::filesystem::path> out;
  bool json = false;
  anydepth::SessionOptions session;
};

[[noreturn]] void misused(const std::string& what) {
  throw anydepth::UsageError(what + "; " + kUsage);
}

double number(const std::string& option, const std::string& text) {
  char* end = nullptr;
  const auto value = std::strtod(text.c_str(), &end);
  if (text.empty() || *end != '\0') {
    misused(option + " is '" + text + "': expected a number");
  }
  return value;
}

std::size_t whole(const std::string& option, const std::string& text) {
  const auto value = number(option, text);
  if (!(value >= 1 && value < 1e15 && value == std::floor(value))) {
    misused(option + " is '" + text + "': expected a whole number, at least 1");
  }
  return static_cast<std::size_t>(value);
}

Arguments parse(const std::vector<std::string>& words) {
  Arguments found;
  std::vector<std::string> paths;
  for (std::size_t place = 0; place < words.size(); ++place) {
    const auto& word = words[place];
    if (word.rfind("--", 0) != 0) {
      paths.push_back(word);
      continue;
    }
    if (word == "--json") {
      found.json = true;
      continue;
    }
    if (place + 1 == words.size() || words[place + 1].rfind("--", 0) == 0) {
      misused(word + " needs a value, or is unknown");
    }
    const auto& value = words[++place];
    if (word == "--depth") {
      found.depth = value;
    } else if (word == "--threshold") {
      found.threshold = static_cast<float>(number(word, value));
    } else if (word == "--batch") {
      found.batch = whole(word, value);
    } else if (word == "--out") {
      found.out = value;
    } else if (word == "--runtime") {
      found.session.runtime = value;
    } else if (word == "--layout") {
      found.session.layout = value;
    } else if (word == "--precision") {
      found.session.precision = value;
    } else if (word == "--max-pixels") {
      found.session.max_pixels = whole(word, value);
    } else if (word == "--threads") {
      found.session.threads = static_cast<int>(number(word, value));
    } else {
      misused("unknown option " + word);
    }
  }
  if (paths.size() < 2) {
    misused("a bundle and a picture are expected, found " + std::to_string(paths.size()) +
            " arguments");
  }
  found.bundle = paths[0];
  found.pictures.assign(paths.begin() + 1, paths.end());
  return found;
}

// Where each picture is drawn; empty where nothing is. Several are drawn into a folder, under their
// names.
std::vector<std::filesystem::path> drawings(const Arguments& arguments) {
  if (!arguments.out) {
    return {};
  }
  if (arguments.pictures.size() == 1) {
    auto place = *arguments.out;
    if (!place.has_extension()) {
      place += pictures::preferred();
    }
    return {place};
  }
  std::error_code failed;
  std::filesystem::create_directories(*arguments.out, failed);
  if (!std::filesystem::is_directory(*arguments.out, failed)) {
    misused("--out " + arguments.out->string() + " is no folder, which drawings of several need");
  }
  std::vector<std::filesystem::path> places;
  std::set<std::filesystem::path> taken;
  for (const auto& picture : arguments.pictures) {
    const auto place =
        *arguments.out / (picture.stem().string() + ".pred" + pictures::preferred());
    if (!taken.insert(place).second) {
      misused("two pictures would be drawn as " + place.string() + ": give them one by one");
    }
    places.push_back(place);
  }
  return places;
}

// The class of an error, as Python calls it.
std::string kind_of(const anydepth::Error& error) {
  if (dynamic_cast<const anydepth::BundleError*>(&error) != nullptr) {
    return "BundleError";
  }
  if (dynamic_cast<const anydepth::DepthError*>(&error) != nullptr) {
    return "DepthError";
  }
  if (dynamic_cast<const anydepth::DeviceError*>(&error) != nullptr) {
    return "DeviceError";
  }
  if (dynamic_cast<const anydepth::ImageError*>(&error) != nullptr) {
    return "ImageError";
  }
  if (dynamic_cast<const anydepth::InputError*>(&error) != nullptr) {
    return "InputError";
  }
  return "UsageError";
}

// One call: pictures that were read, and which of all they are.
struct Group {
  std::vector<pictures::Picture> pictures;
  std::vector<std::size_t> places;
};

class Run {
 public:
  explicit Run(const Arguments& arguments)
      : arguments_(arguments),
        bundle_(anydepth::Bundle::open(arguments.bundle)),
        depth_(bundle_.table().find(arguments.depth).text),
        drawings_(drawings(arguments)) {}

  int operator()() {
    const auto session = bundle_.session(arguments_.session);
    const auto begun = std::chrono::steady_clock::now();
    Group group;
    for (std::size_t place = 0; place < arguments_.pictures.size(); ++place) {
      read(place, group);
      if (group.pictures.size() == arguments_.batch) {
        run(session, group);
        group = {};
      }
    }
    if (!group.pictures.empty()) {
      run(session, group);
    }
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begun;
    document_.seconds = taken.count();
    return finish();
  }

 private:
  void read(std::size_t place, Group& group) {
    const auto& path = arguments_.pictures[place];
    pictures::Reading reading;
    reading.max_pixels = arguments_.session.max_pixels;
    reading.recipe = bundle_.manifest().preprocess;
    try {
      group.pictures.push_back(pictures::read(path, reading));
      group.places.push_back(place);
    } catch (const anydepth::ImageError& error) {
      if (arguments_.pictures.size() == 1) {
        throw;
      }
      document_.skipped.push_back({path, error.what()});
    }
  }

  void run(const anydepth::Session& session, const Group& group) {
    std::vector<anydepth::ImageView> views;
    for (const auto& picture : group.pictures) {
      views.push_back(picture.view());
    }
    const auto answer = session.run(views, arguments_.depth);
    for (std::size_t index = 0; index < views.size(); ++index) {
      const auto place = group.places[index];
      show::Prediction found{arguments_.pictures[place], depth_,
                             answer.image(index, arguments_.threshold), std::nullopt};
      for (const auto& item : found.detections) {
        bundle_.class_name(item.label);  // throws where there is none, before anything is printed
      }
      if (!drawings_.empty()) {
        pictures::write(drawings_[place], show::drawn(group.pictures[index], found.detections));
        found.drawing = drawings_[place];
      }
      tell(found);
      document_.predictions.push_back(std::move(found));
    }
  }

  void tell(const show::Prediction& found) const {
    if (arguments_.json) {
      return;
    }
    if (arguments_.pictures.size() > 1) {
      std::printf("%s\n", anydepth::shorten({found.image.string()}).c_str());
    }
    show::table(found, bundle_);
    if (found.drawing) {
      std::printf("drawn: %s\n", anydepth::shorten({found.drawing->string()}).c_str());
    }
  }

  // What Python's predict says of a run that left something out.
  anydepth::ImageError incomplete() const {
    std::vector<std::string> sources;
    for (const auto& picture : arguments_.pictures) {
      sources.push_back(picture.string());
    }
    std::vector<std::string> errors;
    for (const auto& one : document_.skipped) {
      errors.push_back(one.error);
    }
    return anydepth::ImageError(
        std::to_string(errors.size()) + " of " + std::to_string(sources.size()) + " pictures in " +
        anydepth::shorten(sources, 2) + " were skipped: " + anydepth::shorten(errors, 3));
  }

  int finish() const {
    std::optional<show::Failure> failure;
    if (!document_.skipped.empty()) {
      failure = {"ImageError", incomplete().what()};
    }
    if (arguments_.json) {
      show::json(document_, bundle_, failure);
    } else {
      for (const auto& one : document_.skipped) {
        std::printf("skipped: %s\n", one.error.c_str());
      }
    }
    if (!failure) {
      return 0;
    }
    std::fprintf(stderr, "error: %s\n", failure->message.c_str());
    return failure->exit_status;
  }

  const Arguments& arguments_;
  anydepth::Bundle bundle_;
  std::string depth_;
  std::vector<std::filesystem::path> drawings_;
  show::Document document_;
};

int failed(const show::Failure& failure, bool json) {
  if (json) {
    show::json(failure);
  }
  std::fprintf(stderr, "error: %s\n", failure.message.c_str());
  return failure.exit_status;
}

}  // namespace

int main(int count, char** words) {
  const std::vector<std::string> given(words + 1, words + count);
  const bool json = std::find(given.begin(), given.end(), "--json") != given.end();
  try {
    if (!given.empty() && given.front() == "--help") {
      std::printf("%s\n", kUsage);
      return 0;
    }
    const auto arguments = parse(given);
    return Run(arguments)();
  } catch (const anydepth::Error& error) {
    return failed({kind_of(error), error.what()}, json);
  } catch (const std::bad_alloc&) {
    return failed({"UsageError",
                   "there is not enough memory for this: free some, or give a smaller picture or "
                   "bundle"},
                  json);
  } catch (const std::exception& error) {
    return failed({"Exception", "this is a bug: " + anydepth::shorten({error.what()}), 3}, json);
  }
}
