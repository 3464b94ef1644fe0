/// \file
/// Sessions: run images at a depth, whatever artifact lies underneath.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "anydepth/depth.hpp"
#include "anydepth/detections.hpp"
#include "anydepth/export.hpp"
#include "anydepth/image.hpp"
#include "anydepth/tensor.hpp"

namespace anydepth {

struct Artifact;
struct MeasuredLadder;

/// How to open artifacts.
struct SessionOptions {
  /// `onnxruntime`, `openvino` or `tensorrt`.
  std::string runtime = "onnxruntime";
  /// `gated`, `set` or `stages`; by default the first of them that the bundle has.
  std::optional<std::string> layout;
  /// `fp32`, `fp16`, `int8`, or `bf16`: an FP32 artifact, computed in BF16 (OpenVINO).
  std::string precision = "fp32";
  /// `shared` or `folded`.
  std::optional<std::string> weights;
  /// What an INT8 graph was made for; by default what the runtime likes best.
  std::optional<std::string> target;
  /// Threads inside one operator; by default the runtime's own choice, but no more than the quota of
  /// a container and the processors that the process may run on.
  std::optional<int> threads;
  /// How many depths of a gated graph stay compiled, the latest used, where each is compiled by
  /// itself: by OpenVINO always, by default 8; by ONNX Runtime where a number is given. Each takes
  /// memory for weights in an order of its own.
  std::optional<int> kept_depths;
  /// Of a picture at most, and of what resizing it takes.
  std::size_t max_pixels = kMaxPixels;
  /// Whether files' hashes are compared with the manifest.
  bool check = true;
  /// Whether everything is opened now, and not when a depth first needs it.
  bool preload = false;
};

/// An opened bundle that runs images at any depth its artifacts hold. May be called from several
/// threads at once. Copies are cheap and share what is open.
class ANYDEPTH_EXPORT Session {
 public:
  class Impl;
  explicit Session(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}

  /// Detects objects in prepared images, float32 [N, 3, H, W] at `images` (see prepare_batch()).
  /// Boxes are in pixels of the input. Throws DepthError, InputError and what runtimes throw.
  Detections run(const float* images, std::size_t batch, const DepthName& depth = "super") const;

  /// Any float32 [N, 3, H, W] array; throws InputError for another type or shape.
  Detections run(const TensorView& images, const DepthName& depth = "super") const;

  /// Each image at a depth of its own, one for each: images of one depth run together, whatever their
  /// order, and the answer is in the order of `images`. Throws InputError for another number.
  Detections run(const TensorView& images, const std::vector<DepthName>& depths) const;

  /// Pictures of any sizes: prepared as the manifest says, boxes in each picture's own pixels.
  Detections run(const std::vector<ImageView>& images, const DepthName& depth = "super") const;

  /// The same, each picture at a depth of its own.
  Detections run(const std::vector<ImageView>& images, const std::vector<DepthName>& depths) const;

  /// The heads' raw outputs by name; needs artifacts exported with `--raw`.
  Tensors run_raw(const TensorView& images, const DepthName& depth = "super") const;

  /// The depths that can be run, in the order of the table.
  std::vector<Depth> depths() const;
  /// What runs: one gated artifact, static ones, or the pieces of one chain.
  const std::vector<Artifact>& artifacts() const;
  const DepthTable& table() const;
  /// The ladder in use, from base to super: its K-th depth is `level:K`, on every device.
  std::vector<std::string> ladder() const;
  /// What these artifacts cost and give by depth, as `ladder` measured it on this device with this
  /// runtime and precision; none where nobody did.
  const std::optional<MeasuredLadder>& measured_ladder() const;
  /// The same of other devices, newest last.
  const std::vector<MeasuredLadder>& measured_elsewhere() const;
  /// Multiply-adds of one image, by row of the table.
  const std::vector<std::uint64_t>& macs() const;
  const Preprocess& preprocess() const;
  /// Opens what `depth` needs, instead of when it is needed.
  void load(const DepthName& depth) const;
  /// The same, and runs it once on zeros: a first call takes longer than others.
  void warm(const DepthName& depth = "super", std::size_t batch = 1) const;

 private:
  std::shared_ptr<Impl> impl_;
};

/// The backends this build of the library has.
ANYDEPTH_EXPORT std::vector<std::string> runtimes();

/// The version of a backend's library that is used here: `1.31.1`. Throws UsageError for one that
/// is unknown or not in this build.
ANYDEPTH_EXPORT std::string runtime_version(const std::string& runtime);

}  // namespace anydepth
