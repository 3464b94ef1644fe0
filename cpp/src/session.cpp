#include "anydepth/session.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <map>
#include <utility>

#include "anydepth/bundle.hpp"
#include "anydepth/errors.hpp"
#include "choose.hpp"
#include "engines.hpp"
#include "measured.hpp"
#include "processors.hpp"
#include "runtimes/registry.hpp"
#include "suppression.hpp"
#include "tensors.hpp"

namespace anydepth {
namespace {

const std::vector<std::string> kDetectionOutputs{"labels", "boxes", "scores"};
const std::string kRaw = "raw_";

template <typename Element>
std::vector<Element> values_of(const Tensor& tensor) {
  const auto* first = elements_of<Element>(tensor.view);
  return {first, first + tensor.view.elements()};
}

void expect(const Tensors& found, const char* name, Type type, std::size_t rank) {
  const auto& view = found.at(name).view;
  if (view.type != type || view.shape.size() != rank) {
    throw BundleError(std::string("the artifact gives ") + name + " as " + name_of(view.type) +
                      " " + written(view.shape) + ", expected " + name_of(type) + " of " +
                      std::to_string(rank) + " dimensions: export it again");
  }
}

/// Refuses detections of other images or places than their neighbours: what comes later counts on
/// arrays that belong together.
void check_together(const Tensors& found, std::int64_t images, std::size_t most) {
  const auto& labels = found.at("labels").view.shape;
  const auto& boxes = found.at("boxes").view.shape;
  const auto& scores = found.at("scores").view.shape;
  const std::vector<std::int64_t> expected{labels[0], labels[1], 4};
  if (labels[0] != images || labels[1] < 0 || static_cast<std::size_t>(labels[1]) > most ||
      boxes != expected || scores != labels) {
    const auto count = std::to_string(images);
    throw BundleError("the artifact gives labels " + written(labels) + ", boxes " +
                      written(boxes) + " and scores " + written(scores) + ", expected [" + count +
                      ", K], [" + count + ", K, 4] and [" + count + ", K] with one K of at most " +
                      std::to_string(most) + ": export it again");
  }
}

/// What is found in `images` images, each at most `most` times.
Detections detections(Tensors found, std::int64_t images, std::size_t most) {
  found["labels"] = widened(found["labels"]);
  expect(found, "labels", Type::kInt64, 2);
  expect(found, "boxes", Type::kFloat32, 3);
  expect(found, "scores", Type::kFloat32, 2);
  check_together(found, images, most);
  const auto& shape = found["labels"].view.shape;
  Detections made;
  made.batch = static_cast<std::size_t>(shape[0]);
  made.places = static_cast<std::size_t>(shape[1]);
  made.labels = values_of<std::int64_t>(found["labels"]);
  made.boxes = values_of<float>(found["boxes"]);
  made.scores = values_of<float>(found["scores"]);
  return made;
}

/// What is to be suppressed, of `images` images. Refuses what suppression would read beyond.
const TensorView& predictions(const Tensors& raw, std::int64_t images, std::size_t classes) {
  const auto place = raw.find("predictions");
  if (place == raw.end()) {
    throw BundleError(
        "this bundle has no raw output 'predictions', which suppression on the host needs: export "
        "it again");
  }
  const auto& found = place->second.view;
  const auto rows = static_cast<std::int64_t>(4 + classes);
  const auto& shape = found.shape;
  if (found.type != Type::kFloat32 || shape.size() != 3 || shape[0] != images ||
      shape[1] != rows || shape[2] < 0) {
    throw BundleError("the artifact gives predictions as " + std::string(name_of(found.type)) +
                      " " + written(shape) + ", expected float32 [" + std::to_string(images) +
                      ", " + std::to_string(rows) + ", A]: export it again");
  }
  return found;
}

/// What `--raw` added, by the names it has for callers.
Tensors raw(const Tensors& found) {
  Tensors made;
  for (const auto& [name, tensor] : found) {
    if (name.compare(0, kRaw.size(), kRaw) == 0) {
      made.emplace(name.substr(kRaw.size()), widened(tensor));
    }
  }
  return made;
}

/// Refuses NaN and infinity, which would become scores that are NaN, and no detections.
void check_finite(const TensorView& images) {
  constexpr std::uint32_t kExponent = 0x7F800000U;
  constexpr std::size_t kLanes = 16;  // of which a compiler makes a few wide ones
  const auto* values = elements_of<float>(images);
  const auto count = images.elements();
  const auto bits = [&](std::size_t place) {
    std::uint32_t found = 0;
    std::memcpy(&found, values + place, sizeof(found));
    return found & kExponent;
  };
  std::array<std::uint32_t, kLanes> largest{};
  std::size_t place = 0;
  for (; place + kLanes <= count; place += kLanes) {
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      largest[lane] = std::max(largest[lane], bits(place + lane));
    }
  }
  for (; place < count; ++place) {
    largest[0] = std::max(largest[0], bits(place));
  }
  if (*std::max_element(largest.begin(), largest.end()) != kExponent) {
    return;
  }
  std::size_t wrong = 0;
  std::size_t first = count;
  for (place = 0; place < count; ++place) {
    if (bits(place) == kExponent) {
      first = std::min(first, place);
      ++wrong;
    }
  }
  std::vector<std::int64_t> index(images.shape.size());
  auto left = static_cast<std::int64_t>(first);
  for (auto axis = index.size(); axis-- > 0; left /= images.shape[axis]) {
    index[axis] = left % images.shape[axis];
  }
  const float value = values[first];
  const std::string infinite = value < 0 ? "-inf" : "inf";
  throw InputError("images have " + std::to_string(wrong) +
                   " values that are not finite, the first at " + written(index) + " (" +
                   (std::isnan(value) ? "nan" : infinite) +
                   "); expected numbers as the manifest's preprocessing gives them");
}

/// The detections of the first `count` images.
void keep_images(Detections& found, std::size_t count) {
  found.batch = count;
  found.labels.resize(count * found.places);
  found.boxes.resize(count * found.places * 4);
  found.scores.resize(count * found.places);
}

}  // namespace

class Session::Impl {
 public:
  Impl(Bundle bundle, const SessionOptions& options)
      : bundle_(std::move(bundle)),
        manifest_(bundle_.manifest()),
        max_pixels_(options.max_pixels) {
    artifacts_ =
        choose_artifacts(manifest_, bundle_.path(), options,
                         [](const std::string& runtime) { return device_capability(runtime); });
    check_trust(artifacts_);
    if (options.threads && *options.threads < 1) {
      throw UsageError("threads is " + std::to_string(*options.threads) +
                       ": expected at least 1, or none given for the runtime's own choice");
    }
    if (options.kept_depths && *options.kept_depths < 1) {
      throw UsageError("kept_depths is " + std::to_string(*options.kept_depths) +
                       ": expected at least 1, or none given for the runtime's own choice");
    }
    check_targets(artifacts_, options.runtime);
    EngineOptions engine;
    engine.threads = options.threads ? options.threads : limited_threads();
    engine.kept_depths = options.kept_depths;
    engine.compute = stored_precision(options.precision).compute;
    engine.rows = table().rows().size();
    engine.super = table().ladder().back();
    engines_ = open_engines(bundle_, artifacts_, options.runtime, engine, options.check);
    if (artifacts_.front().engine) {
      smallest_batch_ = artifacts_.front().engine->smallest_batch;
    }
    for (const auto& output : manifest_.raw_outputs) {
      raw_outputs_.push_back(kRaw + output.first);
    }
    on_host_ = suppresses_on_host();
    measured_ = find_measured(manifest_, artifacts_, options);
    if (options.preload) {
      for (const auto row : engines_->rows()) {
        const auto located = engines_->at(row);
        if (located.takes_row && table().level(row)) {
          located.engine->prepare(row);
        }
      }
    }
  }

  Detections run(const TensorView& images, const DepthName& depth) const {
    check_detects();
    if (on_host_) {
      const auto found = run_raw(images, depth);
      return suppress(predictions(found, images.shape[0], manifest_.classes.size()),
                      *manifest_.suppression, manifest_.max_detections);
    }
    return detections(execute(images, depth, kDetectionOutputs), images.shape[0],
                      manifest_.max_detections);
  }

  Detections run(const TensorView& images, const std::vector<DepthName>& depths) const {
    check_images(images);
    const auto count = static_cast<std::size_t>(images.shape[0]);
    const auto groups = grouped(depths, count);
    if (groups.size() == 1) {
      return run(images, depths.front());
    }
    const auto size = images.elements() / count;
    const auto* first = elements_of<float>(images);
    Detections whole;
    for (const auto& [row, places] : groups) {
      // Engines may take no batch as small: the last image is repeated.
      std::vector<float> part;
      part.reserve(std::max(places.size(), smallest_batch_) * size);
      for (std::size_t place = 0; place < std::max(places.size(), smallest_batch_); ++place) {
        const auto* image = first + places[std::min(place, places.size() - 1)] * size;
        part.insert(part.end(), image, image + size);
      }
      const auto found = run(prepared(part.data(), part.size() / size),
                             DepthName(static_cast<std::int64_t>(row)));
      if (whole.batch == 0) {
        whole = {count, found.places, std::vector<std::int64_t>(count * found.places),
                 std::vector<float>(count * found.places * 4),
                 std::vector<float>(count * found.places)};
      }
      put(found, places, whole);
    }
    return whole;
  }

  Detections run(const std::vector<ImageView>& images, const std::vector<DepthName>& depths) const {
    auto batch = prepare_batch(images, preprocess(), max_pixels_);
    auto found = run(prepared(batch.images.data(), images.size()), depths);
    for (std::size_t image = 0; image < images.size(); ++image) {
      batch.geometries[image].to_picture(found.boxes.data() + image * found.places * 4,
                                         found.places);
    }
    return found;
  }

  Detections run(const std::vector<ImageView>& images, const DepthName& depth) const {
    auto batch = prepare_batch(images, preprocess(), max_pixels_);
    const auto count = images.size();
    // Engines may take no batch as small: the last image is repeated.
    const auto filled = std::max(count, smallest_batch_);
    const auto size = batch.images.size() / count;
    batch.images.reserve(filled * size);
    for (auto place = count; place < filled; ++place) {
      std::copy_n(batch.images.begin() + static_cast<std::ptrdiff_t>((count - 1) * size), size,
                  std::back_inserter(batch.images));
    }
    auto found = run(prepared(batch.images.data(), filled), depth);
    keep_images(found, count);
    for (std::size_t image = 0; image < count; ++image) {
      batch.geometries[image].to_picture(found.boxes.data() + image * found.places * 4,
                                         found.places);
    }
    return found;
  }

  Tensors run_raw(const TensorView& images, const DepthName& depth) const {
    return raw(execute(images, depth, raw_outputs_));
  }

  TensorView prepared(const float* images, std::size_t batch) const {
    const auto& recipe = preprocess();
    return {images,
            Type::kFloat32,
            {static_cast<std::int64_t>(batch), 3, static_cast<std::int64_t>(recipe.height),
             static_cast<std::int64_t>(recipe.width)}};
  }

  std::vector<Depth> depths() const {
    std::vector<Depth> found;
    for (const auto row : engines_->rows()) {
      found.push_back(table().rows()[row]);
    }
    return found;
  }

  void load(const DepthName& depth) const {
    const auto row = table().row(depth);
    const auto located = engines_->at(row);
    if (located.takes_row) {
      located.engine->prepare(row);
    }
  }
  const std::vector<Artifact>& artifacts() const { return artifacts_; }
  const Measured& measured() const { return measured_; }
  const std::vector<std::uint64_t>& macs() const { return manifest_.macs; }

  void warm(const DepthName& depth, std::size_t batch) const {
    const std::vector<float> zeros(batch * 3 * preprocess().height * preprocess().width);
    const auto images = prepared(zeros.data(), batch);
    if (detects()) {
      run(images, depth);
    } else {
      run_raw(images, depth);
    }
  }

  const DepthTable& table() const { return manifest_.table; }
  const Preprocess& preprocess() const { return manifest_.preprocess; }

 private:
  /// The places of the images of each row.
  std::map<std::size_t, std::vector<std::size_t>> grouped(const std::vector<DepthName>& depths,
                                                          std::size_t count) const {
    std::map<std::size_t, std::vector<std::size_t>> found;
    for (std::size_t place = 0; place < depths.size(); ++place) {
      found[table().row(depths[place])].push_back(place);
    }
    if (depths.size() != count) {
      throw InputError(std::to_string(depths.size()) + " depths for " + std::to_string(count) +
                       " images: expected one for each image, or a single one for all");
    }
    return found;
  }

  /// Writes the detections of some images where they belong.
  static void put(const Detections& found, const std::vector<std::size_t>& places,
                  Detections& whole) {
    const auto copy = [&](const auto& from, auto& to, std::size_t width) {
      for (std::size_t image = 0; image < places.size(); ++image) {
        std::copy_n(from.begin() + static_cast<std::ptrdiff_t>(image * width), width,
                    to.begin() + static_cast<std::ptrdiff_t>(places[image] * width));
      }
    };
    copy(found.labels, whole.labels, found.places);
    copy(found.scores, whole.scores, found.places);
    copy(found.boxes, whole.boxes, found.places * 4);
  }

  /// Whether the graphs end before suppression, and it is for this library to do.
  bool suppresses_on_host() const {
    const auto& rule = manifest_.suppression;
    if (!rule || rule->where == Suppression::Where::kNone) {
      return false;
    }
    return rule->where == Suppression::Where::kHost ||
           std::any_of(artifacts_.begin(), artifacts_.end(), [](const Artifact& artifact) {
             return artifact.engine && !artifact.engine->detections;
           });
  }

  bool detects() const {
    return !manifest_.suppression || manifest_.suppression->where != Suppression::Where::kNone;
  }

  void check_detects() const {
    if (!detects()) {
      throw BundleError(
          "this bundle was exported with --nms none, so it gives predictions, not detections: use "
          "run_raw, or export with --nms graph or host");
    }
  }

  void check_images(const TensorView& images) const {
    const auto expected = prepared(nullptr, 1).shape;
    const auto& shape = images.shape;
    if (images.type == Type::kFloat32 && images.data != nullptr && shape.size() == 4 &&
        shape[0] > 0 && std::equal(shape.begin() + 1, shape.end(), expected.begin() + 1)) {
      if (!artifacts_.front().engine) {  // on a GPU the search would take a noticeable part
        check_finite(images);
      }
      return;
    }
    throw InputError("images must be float32 [N, 3, " + std::to_string(expected[2]) + ", " +
                     std::to_string(expected[3]) + "] with N >= 1; found " +
                     (images.data == nullptr && images.elements() != 0 ? "no memory of " : "") +
                     name_of(images.type) + " " + written(shape));
  }

  Tensors execute(const TensorView& images, const DepthName& depth,
                  const std::vector<std::string>& outputs) const {
    check_images(images);
    const auto row = static_cast<std::int64_t>(table().row(depth));
    const auto [engine, takes_row] = engines_->at(static_cast<std::size_t>(row));
    check_outputs(*engine, outputs);
    std::vector<Feed> feeds{{"images", images}};
    if (takes_row) {
      feeds.push_back({"depth", TensorView{&row, Type::kInt64, {}}});
    }
    return engine->run(feeds, outputs);
  }

  static void check_outputs(const Engine& engine, const std::vector<std::string>& wanted) {
    const auto& has = engine.outputs();
    std::vector<std::string> missing;
    std::copy_if(wanted.begin(), wanted.end(), std::back_inserter(missing),
                 [&](const std::string& name) {
                   return std::find(has.begin(), has.end(), name) == has.end();
                 });
    if (!missing.empty()) {
      throw BundleError("this artifact has no outputs " + shorten(missing) +
                        ": export the bundle with --raw");
    }
  }

  Bundle bundle_;
  const Manifest& manifest_;
  std::size_t max_pixels_;
  std::vector<Artifact> artifacts_;
  EnginesPtr engines_;
  std::vector<std::string> raw_outputs_;
  std::size_t smallest_batch_ = 1;
  bool on_host_ = false;
  Measured measured_;
};

Session Bundle::session(const SessionOptions& options) const {
  check_runtime(options.runtime);
  return Session(std::make_shared<Session::Impl>(*this, options));
}

Detections Session::run(const float* images, std::size_t batch, const DepthName& depth) const {
  return impl_->run(impl_->prepared(images, batch), depth);
}

Detections Session::run(const TensorView& images, const DepthName& depth) const {
  return impl_->run(images, depth);
}

Detections Session::run(const std::vector<ImageView>& images, const DepthName& depth) const {
  return impl_->run(images, depth);
}

Detections Session::run(const TensorView& images, const std::vector<DepthName>& depths) const {
  return impl_->run(images, depths);
}

Detections Session::run(const std::vector<ImageView>& images,
                        const std::vector<DepthName>& depths) const {
  return impl_->run(images, depths);
}

Tensors Session::run_raw(const TensorView& images, const DepthName& depth) const {
  return impl_->run_raw(images, depth);
}

std::vector<Depth> Session::depths() const { return impl_->depths(); }
const std::vector<Artifact>& Session::artifacts() const { return impl_->artifacts(); }
std::vector<std::string> Session::ladder() const {
  std::vector<std::string> found;
  for (const auto row : table().ladder()) {
    found.push_back(table().rows()[row].text);
  }
  return found;
}

const std::optional<MeasuredLadder>& Session::measured_ladder() const {
  return impl_->measured().here;
}
const std::vector<MeasuredLadder>& Session::measured_elsewhere() const {
  return impl_->measured().elsewhere;
}
const std::vector<std::uint64_t>& Session::macs() const { return impl_->macs(); }
const DepthTable& Session::table() const { return impl_->table(); }
const Preprocess& Session::preprocess() const { return impl_->preprocess(); }
void Session::load(const DepthName& depth) const { impl_->load(depth); }
void Session::warm(const DepthName& depth, std::size_t batch) const { impl_->warm(depth, batch); }

}  // namespace anydepth
