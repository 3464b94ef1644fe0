// ONNX Runtime, on any CPU. Its C interface is used directly: its C++ header keeps a global that
// would be shared, or fought over, with an application that uses ONNX Runtime itself.

#include <onnxruntime_c_api.h>
#include <onnxruntime_session_options_config_keys.h>

#include <algorithm>
#include <iterator>
#include <string>
#include <system_error>
#include <utility>

#include "../processors.hpp"
#include "../tensors.hpp"
#include "anydepth/errors.hpp"
#include "fixed_depth.hpp"
#include "kept_depths.hpp"
#include "registry.hpp"

namespace anydepth {
namespace {

// What ONNX Runtime prints by itself: nothing, since errors reach the caller as exceptions.
constexpr int kQuiet = 4;

// An optimisation that goes wrong where scales are FP16 (ONNX Runtime 1.31).
constexpr const char* kHalfScales = "WeightBiasQuantization";

const char* version() { return OrtGetApiBase()->GetVersionString(); }

const OrtApi& api() {
  // A library that is older than the headers answers with nothing.
  static const OrtApi* const found = OrtGetApiBase()->GetApi(ORT_API_VERSION);
  if (found == nullptr) {
    throw UsageError(std::string("the installed ONNX Runtime ") + version() +
                     " is older than 1." + std::to_string(ORT_API_VERSION) +
                     ", whose headers this program was built with: install that version or a "
                     "newer one");
  }
  return *found;
}

/// Owns something of ONNX Runtime's.
template <typename Handle>
using Owned = std::unique_ptr<Handle, void (*)(Handle*)>;

void release(OrtSession* handle) { api().ReleaseSession(handle); }
void release(OrtSessionOptions* handle) { api().ReleaseSessionOptions(handle); }
void release(OrtMemoryInfo* handle) { api().ReleaseMemoryInfo(handle); }
void release(OrtValue* handle) { api().ReleaseValue(handle); }
void release(OrtTensorTypeAndShapeInfo* handle) { api().ReleaseTensorTypeAndShapeInfo(handle); }

template <typename Handle>
Owned<Handle> own(Handle* handle) {
  return Owned<Handle>(handle, [](Handle* given) { release(given); });
}

/// What ONNX Runtime said; becomes one of ours where it is known what was being done.
struct Failure {
  std::string reason;
};

void check(OrtStatus* status) {
  if (status == nullptr) {
    return;
  }
  const std::string text = api().GetErrorMessage(status);
  api().ReleaseStatus(status);
  throw Failure{text.substr(0, text.find('\n'))};
}

const OrtEnv* environment() {
  // One for the process, never released: sessions may outlive the end of main.
  static const OrtEnv* const made = [] {
    OrtEnv* found = nullptr;
    check(api().CreateEnv(ORT_LOGGING_LEVEL_FATAL, "anydepth", &found));
    return found;
  }();
  return made;
}

Owned<OrtSessionOptions> settings_of(const Artifact& artifact, const EngineOptions& options) {
  OrtSessionOptions* made = nullptr;
  check(api().CreateSessionOptions(&made));
  auto settings = own(made);
  check(api().SetSessionLogSeverityLevel(made, kQuiet));
  // ONNX Runtime has kernels that do not saturate; they take half as long again where there is no
  // need for them.
  if (lacks_vnni().value_or(true)) {
    check(api().AddSessionConfigEntry(made, kOrtSessionOptionsAvx2PrecisionMode, "1"));
  }
  if (options.threads) {
    check(api().SetIntraOpNumThreads(made, *options.threads));
  }
  // A piece of a chain is one session of many: while its threads wait busily for its next run, those
  // of the piece behind it have no core.
  if (artifact.layout == "stages") {
    check(api().AddSessionConfigEntry(made, kOrtSessionOptionsConfigForceSpinningStop, "1"));
  }
  if (artifact.target == "tensorrt") {
    check(api().AddSessionConfigEntry(made, kOrtSessionOptionsDisableSpecifiedOptimizers,
                                      kHalfScales));
  }
  return settings;
}

ONNXTensorElementDataType type_to(Type type) {
  switch (type) {
    case Type::kFloat32:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    case Type::kFloat16:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
    case Type::kInt64:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
    case Type::kInt32:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
    case Type::kBool:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL;
    case Type::kUInt8:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
    case Type::kInt8:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8;
  }
  return ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
}

Type type_from(ONNXTensorElementDataType type) {
  for (const auto known : {Type::kFloat32, Type::kFloat16, Type::kInt64, Type::kInt32, Type::kBool,
                           Type::kUInt8, Type::kInt8}) {
    if (type_to(known) == type) {
      return known;
    }
  }
  throw Failure{"an output is of type " + std::to_string(static_cast<int>(type)) +
                ", which this library does not know"};
}

/// The tensor in `value`, which stays in ONNX Runtime's memory as long as somebody holds it.
Tensor wrapped(Owned<OrtValue> value) {
  OrtTensorTypeAndShapeInfo* described = nullptr;
  check(api().GetTensorTypeAndShape(value.get(), &described));
  const auto info = own(described);
  ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  check(api().GetTensorElementType(described, &type));
  std::size_t rank = 0;
  check(api().GetDimensionsCount(described, &rank));
  std::vector<std::int64_t> shape(rank);
  check(api().GetDimensions(described, shape.data(), rank));
  void* data = nullptr;
  check(api().GetTensorMutableData(value.get(), &data));
  const std::shared_ptr<OrtValue> kept(std::move(value));
  return Tensor{std::shared_ptr<const void>(kept, data), TensorView{data, type_from(type), shape}};
}

/// An inference session, which ONNX Runtime lets threads share.
class OnnxRuntimeEngine : public Engine {
 public:
  /// `row`: opens a gated graph for one row of its depth table, without the input `depth`.
  OnnxRuntimeEngine(const std::filesystem::path& path, const Artifact& artifact,
                    const EngineOptions& options, std::optional<std::size_t> row = std::nullopt)
      : file_(path.filename().string()), session_(own<OrtSession>(nullptr)) {
    try {
      const auto settings = settings_of(artifact, options);
      OrtSession* made = nullptr;
      if (row) {
        const auto real = std::filesystem::canonical(path);
        // Of a file that has several names, as in a Triton repository, it reads no weights.
        const bool alone = std::filesystem::hard_link_count(real) == 1;
        const auto model = fix_depth(real, *row, alone ? real.filename().string() : "");
        check(api().AddSessionConfigEntry(
            settings.get(), kOrtSessionOptionsModelExternalInitializersFileFolderPath,
            real.parent_path().c_str()));
        check(api().CreateSessionFromArray(environment(), model.data(), model.size(),
                                           settings.get(), &made));
      } else {
        check(api().CreateSession(environment(), path.c_str(), settings.get(), &made));
      }
      session_ = own(made);
      OrtMemoryInfo* memory = nullptr;
      check(api().CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));
      memory_ = own(memory);
      read_names();
    } catch (const Failure& failure) {
      throw BundleError(std::string("ONNX Runtime ") + version() + " cannot load " +
                        path.string() + ": " + failure.reason);
    } catch (const std::system_error& error) {
      throw BundleError(std::string("ONNX Runtime ") + version() + " cannot load " +
                        path.string() + ": " + error.what());
    }
  }

  const std::vector<std::string>& inputs() const override { return inputs_; }
  const std::vector<std::string>& outputs() const override { return outputs_; }

  Tensors run(const std::vector<Feed>& feeds,
              const std::vector<std::string>& outputs) const override {
    try {
      return run_once(feeds, outputs);
    } catch (const Failure& failure) {
      throw InputError(file_ + ": " + failure.reason);
    }
  }

 private:
  void read_names() {
    OrtAllocator* allocator = nullptr;
    check(api().GetAllocatorWithDefaultOptions(&allocator));
    const auto read = [&](auto count_of, auto name_of, std::vector<std::string>& names) {
      std::size_t count = 0;
      check(count_of(session_.get(), &count));
      for (std::size_t index = 0; index < count; ++index) {
        char* name = nullptr;
        check(name_of(session_.get(), index, allocator, &name));
        names.emplace_back(name);
        check(api().AllocatorFree(allocator, name));
      }
    };
    read(api().SessionGetInputCount, api().SessionGetInputName, inputs_);
    read(api().SessionGetOutputCount, api().SessionGetOutputName, outputs_);
  }

  Tensors run_once(const std::vector<Feed>& feeds, const std::vector<std::string>& outputs) const {
    std::vector<Owned<OrtValue>> given;
    std::vector<const OrtValue*> values;
    std::vector<const char*> input_names;
    std::vector<const char*> output_names;
    for (const auto& feed : feeds) {
      OrtValue* value = nullptr;
      // Inputs are used where they are; ONNX Runtime only reads them.
      check(api().CreateTensorWithDataAsOrtValue(
          memory_.get(), const_cast<void*>(feed.value.data), feed.value.bytes(),
          feed.value.shape.data(), feed.value.shape.size(), type_to(feed.value.type), &value));
      given.push_back(own(value));
      values.push_back(value);
      input_names.push_back(feed.name.c_str());
    }
    for (const auto& name : outputs) {
      output_names.push_back(name.c_str());
    }
    std::vector<OrtValue*> made(outputs.size(), nullptr);
    check(api().Run(session_.get(), nullptr, input_names.data(), values.data(), values.size(),
                    output_names.data(), output_names.size(), made.data()));
    std::vector<Owned<OrtValue>> owned;
    std::transform(made.begin(), made.end(), std::back_inserter(owned), own<OrtValue>);
    Tensors found;
    for (std::size_t index = 0; index < outputs.size(); ++index) {
      found.emplace(outputs[index], wrapped(std::move(owned[index])));
    }
    return found;
  }

  std::string file_;
  Owned<OrtSession> session_;
  Owned<OrtMemoryInfo> memory_ = own<OrtMemoryInfo>(nullptr);
  std::vector<std::string> inputs_;
  std::vector<std::string> outputs_;
};

/// A gated graph opened once for each depth that is run. Each is a session of its own that costs what
/// a static graph costs, and needs no memory for what only other depths use; those used last stay
/// open. Weights are read from the file when a depth is opened, so it has to stay the file that was
/// opened first.
class DepthsEngine : public Engine {
 public:
  DepthsEngine(std::filesystem::path path, Artifact artifact, const EngineOptions& options)
      : path_(std::move(path)),
        artifact_(std::move(artifact)),
        options_(options),
        identity_(identity()),
        depths_(static_cast<std::size_t>(options.kept_depths.value_or(1))) {
    // Opened now, so that what cannot be opened shows here and not in the first run.
    const auto first = at(options.super);
    inputs_ = first->inputs();
    inputs_.emplace_back("depth");
    outputs_ = first->outputs();
  }

  const std::vector<std::string>& inputs() const override { return inputs_; }
  const std::vector<std::string>& outputs() const override { return outputs_; }

  void prepare(std::size_t row) const override { at(row); }

  Tensors run(const std::vector<Feed>& feeds,
              const std::vector<std::string>& outputs) const override {
    const auto given = take_depth(feeds, inputs_, options_.rows, path_.filename().string());
    return at(given.row)->run(given.rest, outputs);
  }

 private:
  std::shared_ptr<const OnnxRuntimeEngine> at(std::size_t row) const {
    return depths_.at(row, [&] { return opened(row); });
  }

  std::shared_ptr<const OnnxRuntimeEngine> opened(std::size_t row) const {
    check_file();
    auto made = std::make_shared<const OnnxRuntimeEngine>(path_, artifact_, options_, row);
    check_file();  // weights are read by where they lie in it
    return made;
  }

  void check_file() const {
    const auto now = identity();
    if (now.empty() || now != identity_) {
      throw BundleError(path_.string() +
                        " was replaced since this session was opened, and the depth is not in "
                        "memory: open the bundle again");
    }
  }

  /// Nothing where there is no such file.
  std::string identity() const {
    try {
      return identity_of(path_);
    } catch (const std::system_error&) {
      return "";
    }
  }

  std::filesystem::path path_;
  Artifact artifact_;
  EngineOptions options_;
  std::string identity_;
  std::vector<std::string> inputs_;
  std::vector<std::string> outputs_;
  mutable KeptDepths<const OnnxRuntimeEngine> depths_;
};

}  // namespace

std::string onnxruntime_version() { return version(); }

EnginePtr open_onnxruntime(const std::filesystem::path& path, const Artifact& artifact,
                           const EngineOptions& options) {
  if (artifact.layout == "gated" && options.kept_depths) {
    return std::make_shared<DepthsEngine>(path, artifact, options);
  }
  return std::make_shared<OnnxRuntimeEngine>(path, artifact, options);
}

}  // namespace anydepth
