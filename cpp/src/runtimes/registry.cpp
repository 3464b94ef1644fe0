#include "registry.hpp"

#include <algorithm>
#include <utility>

#include "anydepth/errors.hpp"
#include "anydepth/session.hpp"

#ifndef ANYDEPTH_WITH_ONNXRUNTIME
#define ANYDEPTH_WITH_ONNXRUNTIME 0
#endif
#ifndef ANYDEPTH_WITH_OPENVINO
#define ANYDEPTH_WITH_OPENVINO 0
#endif
#ifndef ANYDEPTH_WITH_TENSORRT
#define ANYDEPTH_WITH_TENSORRT 0
#endif

namespace anydepth {
namespace {

struct Backend {
  std::string name;
  /// The option of this project's CMake that builds it.
  std::string option;
  bool built;
  std::vector<std::string> computes;
};

const std::vector<Backend>& backends() {
  static const std::vector<Backend> known{
      {"onnxruntime", "ANYDEPTH_ONNXRUNTIME", ANYDEPTH_WITH_ONNXRUNTIME != 0, {"fp32"}},
      {"openvino", "ANYDEPTH_OPENVINO", ANYDEPTH_WITH_OPENVINO != 0, {"fp32", "bf16"}},
      {"tensorrt", "ANYDEPTH_TENSORRT", ANYDEPTH_WITH_TENSORRT != 0, {"fp32"}},
  };
  return known;
}

std::string joined(const std::vector<std::string>& words, const std::string& glue) {
  std::string text;
  for (const auto& word : words) {
    text += (text.empty() ? "" : glue) + word;
  }
  return text;
}

const Backend& find(const std::string& runtime) {
  const auto& known = backends();
  const auto found = std::find_if(known.begin(), known.end(),
                                  [&](const Backend& item) { return item.name == runtime; });
  if (found == known.end()) {
    std::vector<std::string> names;
    for (const auto& item : known) {
      names.push_back(item.name);
    }
    throw UsageError("unknown runtime '" + runtime + "': expected one of " + joined(names, ", "));
  }
  return *found;
}

}  // namespace

void check_runtime(const std::string& runtime) {
  const auto& backend = find(runtime);
  if (!backend.built) {
    const auto built = runtimes();
    throw UsageError("this build of the library has no runtime '" + runtime + "' (it has " +
                     (built.empty() ? "none" : joined(built, ", ")) +
                     "): configure it with -D" + backend.option + "=ON and build it again");
  }
}

EnginePtr open_engine(const std::string& runtime, const std::filesystem::path& path,
                      const Artifact& artifact, const EngineOptions& options) {
  check_runtime(runtime);
  const auto& computes = find(runtime).computes;
  if (std::find(computes.begin(), computes.end(), options.compute) == computes.end()) {
    std::vector<std::string> able;
    for (const auto& other : backends()) {
      const auto& has = other.computes;
      if (std::find(has.begin(), has.end(), options.compute) != has.end()) {
        able.push_back(other.name);
      }
    }
    throw UsageError("the runtime '" + runtime + "' cannot compute in " + options.compute +
                     ": expected " + joined(computes, " or ") + ", or the runtime " +
                     (able.empty() ? "none" : joined(able, " or ")));
  }
#if ANYDEPTH_WITH_ONNXRUNTIME
  if (runtime == "onnxruntime") {
    return open_onnxruntime(path, artifact, options);
  }
#endif
#if ANYDEPTH_WITH_OPENVINO
  if (runtime == "openvino") {
    return open_openvino(path, artifact, options);
  }
#endif
#if ANYDEPTH_WITH_TENSORRT
  if (runtime == "tensorrt") {
    return open_tensorrt(path, artifact, options);
  }
#endif
  (void)path;
  (void)artifact;
  return nullptr;  // not reached: what is not built was refused
}

StagesPtr open_stages(const std::string& runtime, std::vector<Link> links,
                      const EngineOptions& options) {
  check_runtime(runtime);
#if ANYDEPTH_WITH_TENSORRT
  if (runtime == "tensorrt") {
    return chain_tensorrt(std::move(links), options);
  }
#endif
  return chain_on_host(runtime, std::move(links), options);
}

std::string device_capability(const std::string& runtime) {
  check_runtime(runtime);
#if ANYDEPTH_WITH_TENSORRT
  return tensorrt_capability();
#else
  return "";  // not reached: no other runtime has engines
#endif
}

std::string device_name(const std::string& runtime) {
  check_runtime(runtime);
#if ANYDEPTH_WITH_TENSORRT
  return tensorrt_device();
#else
  return "";  // not reached: no other runtime has engines
#endif
}

std::string runtime_version(const std::string& runtime) {
  check_runtime(runtime);
#if ANYDEPTH_WITH_ONNXRUNTIME
  if (runtime == "onnxruntime") {
    return onnxruntime_version();
  }
#endif
#if ANYDEPTH_WITH_OPENVINO
  if (runtime == "openvino") {
    return openvino_version();
  }
#endif
#if ANYDEPTH_WITH_TENSORRT
  if (runtime == "tensorrt") {
    return tensorrt_version();
  }
#endif
  return "";  // not reached: what is not built was refused
}

std::vector<std::string> runtimes() {
  std::vector<std::string> names;
  for (const auto& item : backends()) {
    if (item.built) {
      names.push_back(item.name);
    }
  }
  return names;
}

}  // namespace anydepth
