#include "choose.hpp"

#include <algorithm>
#include <array>
#include <optional>
#include <set>
#include <tuple>
#include <utility>

#include "anydepth/errors.hpp"
#include "text.hpp"

namespace anydepth {
namespace {

constexpr std::array<const char*, 3> kLayouts{"gated", "set", "stages"};

/// What the artifacts are that `runtime` executes, whether or not this build has it.
std::string format_of(const std::string& runtime) {
  if (runtime == "onnxruntime" || runtime == "openvino") {
    return "onnx";
  }
  if (runtime == "tensorrt") {
    return runtime;
  }
  throw UsageError("unknown runtime '" + runtime +
                   "': expected one of onnxruntime, openvino, tensorrt");
}

/// What INT8 graphs may have been made for that `runtime` runs, the best first.
std::vector<std::string> runtime_targets(const std::string& runtime) {
  if (runtime == "onnxruntime") {
    return {"onnxruntime", "tensorrt"};
  }
  if (runtime == "openvino") {
    return {"openvino", "onnxruntime"};
  }
  return {"tensorrt"};
}

bool contains(const std::vector<std::string>& words, const std::string& word) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

/// What INT8 graphs have to be made for where `target` is asked for. Where nothing is said: for
/// ONNX Runtime where that is best for `runtime`, else for any that it runs, the best first.
std::vector<std::string> graph_targets(const std::string& runtime,
                                       const std::optional<std::string>& target) {
  if (target) {
    return {*target};
  }
  const auto taken = runtime_targets(runtime);
  return taken.front() == "onnxruntime" ? std::vector{taken.front()} : taken;
}

/// What artifacts that belong together have in common.
auto make_of(const Artifact& artifact) {
  std::optional<std::pair<std::string, std::vector<std::string>>> engine;
  if (artifact.engine) {
    engine.emplace(artifact.engine->version, artifact.engine->capabilities);
  }
  // Bundles of before do not name what is no gather.
  return std::make_tuple(artifact.format, artifact.precision, artifact.weights,
                         artifact.deformable == "gather", artifact.target, engine);
}

/// The first artifact and those that belong to it: the static graphs of the other depths, or the
/// other pieces of its chain.
std::vector<Artifact> alike(std::vector<Artifact> artifacts) {
  const Artifact first = artifacts.front();
  if (first.layout == "gated") {
    return {first};
  }
  std::vector<Artifact> found;
  for (auto& item : artifacts) {
    if (make_of(item) == make_of(first)) {
      found.push_back(std::move(item));
    }
  }
  return found;
}

/// Whether static graphs are there for every rung; what is no set holds all depths.
bool holds_the_ladder(const DepthTable& table, const std::vector<Artifact>& artifacts) {
  const auto& rungs = table.ladder();
  return artifacts.front().layout != "set" ||
         std::all_of(rungs.begin(), rungs.end(), [&](std::size_t row) {
           return std::any_of(artifacts.begin(), artifacts.end(),
                              [&](const Artifact& item) { return item.row == row; });
         });
}

std::string kind(const Artifact& artifact) {
  std::string purpose = artifact.target ? " for " + *artifact.target : "";
  if (artifact.engine) {
    purpose = " for " + artifact.format + " on " + join(artifact.engine->capabilities, "+");
  }
  return artifact.layout + " " + artifact.precision + " " + artifact.weights + purpose;
}

std::vector<std::string> sorted(const std::set<std::string>& words) {
  return {words.begin(), words.end()};
}

/// Of engines, those for the device at hand; of graphs, all.
std::vector<Artifact> for_device(std::vector<Artifact> artifacts, const std::filesystem::path& path,
                                 const std::string& runtime, const DeviceCapability& capability) {
  if (!artifacts.front().engine) {
    return artifacts;
  }
  const std::string here = capability(runtime);
  std::set<std::string> built;
  std::vector<Artifact> fitting;
  for (auto& item : artifacts) {
    if (item.engine) {
      const auto& names = item.engine->capabilities;
      built.insert(names.begin(), names.end());
      if (contains(names, here)) {
        fitting.push_back(std::move(item));
      }
    }
  }
  if (fitting.empty()) {
    throw BundleError("bundle " + path.string() + " has engines for " + shorten(sorted(built)) +
                      ", this device is " + here + ": 'build " + path.string() + " --runtime " +
                      runtime + "' adds its own");
  }
  return fitting;
}

BundleError nothing_like(const Manifest& manifest, const std::filesystem::path& path,
                         const SessionOptions& options, const std::string& stored,
                         const std::string& target, bool engines) {
  std::set<std::string> kinds;
  for (const auto& item : manifest.artifacts) {
    kinds.insert(kind(item));
  }
  const std::string has = kinds.empty() ? "none" : shorten(sorted(kinds));
  std::vector<std::string> wanted;
  std::vector<std::string> command{
      engines ? "build " + path.string() + " --runtime " + options.runtime : "export"};
  const auto add = [](std::vector<std::string>& words, const std::string& option,
                      const std::string& word) {
    if (!word.empty()) {
      words.push_back(option + word);
    }
  };
  const std::string layout = options.layout.value_or("");
  const std::string weights = options.weights.value_or("");
  add(wanted, "", layout);
  add(wanted, "", stored);
  add(wanted, "", weights);
  add(wanted, "", stored == "int8" || engines ? "for " + target : "");
  add(command, "--precision ", stored);
  add(command, "--layout ", layout);
  add(command, "--weights ", weights);
  add(command, "--target ", stored == "int8" && !engines && target != "onnxruntime" ? target : "");
  return BundleError("bundle " + path.string() + " has no artifact '" + join(wanted, " ") +
                     "'; it has: " + has + ". '" + join(command, " ") + "' adds it");
}

}  // namespace

StoredPrecision stored_precision(const std::string& precision) {
  if (precision == "bf16") {
    return {"fp32", "bf16"};
  }
  if (precision == "fp32" || precision == "fp16" || precision == "int8") {
    return {precision, "fp32"};
  }
  throw UsageError("unknown precision '" + precision + "': expected fp32, fp16, int8, bf16");
}

std::vector<Artifact> choose_artifacts(const Manifest& manifest, const std::filesystem::path& path,
                                       const SessionOptions& options,
                                       const DeviceCapability& capability) {
  const std::string stored = stored_precision(options.precision).artifact;
  const std::string format = format_of(options.runtime);
  const bool engines = format != "onnx";
  const auto targets =
      engines ? runtime_targets(options.runtime) : graph_targets(options.runtime, options.target);
  const auto matches = [&](const Artifact& item, const std::string& layout,
                           const std::string& target) {
    return item.layout == layout && item.precision == stored && item.format == format &&
           (!options.weights || item.weights == *options.weights) &&
           (!item.target || *item.target == target);
  };
  const std::vector<std::string> layouts =
      options.layout ? std::vector{*options.layout}
                     : std::vector<std::string>(kLayouts.begin(), kLayouts.end());
  for (const auto& layout : layouts) {
    std::vector<std::vector<Artifact>> groups;
    for (const auto& target : targets) {  // the best first
      std::vector<Artifact> found;
      for (const auto& item : manifest.artifacts) {
        if (matches(item, layout, target)) {
          found.push_back(item);
        }
      }
      if (!found.empty()) {
        groups.push_back(alike(for_device(std::move(found), path, options.runtime, capability)));
      }
    }
    if (!groups.empty()) {
      const auto whole = std::find_if(groups.begin(), groups.end(), [&](const auto& group) {
        return holds_the_ladder(manifest.table, group);
      });
      return whole == groups.end() ? groups.front() : *whole;
    }
  }
  throw nothing_like(manifest, path, options, stored, targets.front(), engines);
}

std::string export_words(const Artifact& artifact) {
  std::string words;
  if (artifact.precision != "fp32") {
    words += " --precision " + artifact.precision;
  }
  if (artifact.target && *artifact.target != "onnxruntime") {
    words += " --target " + *artifact.target;
  }
  return words;
}

void check_targets(const std::vector<Artifact>& artifacts, const std::string& runtime) {
  const auto taken = runtime_targets(runtime);
  for (const auto& item : artifacts) {
    if (item.target && !contains(taken, *item.target)) {
      throw UsageError(item.name + " is made for " + *item.target + ", the runtime '" + runtime +
                       "' would compute something else: choose another --runtime, or the INT8 "
                       "artifacts for " + join(taken, " or "));
    }
  }
}

}  // namespace anydepth
