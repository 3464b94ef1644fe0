#include "tensorrt_engine.hpp"

#include <NvInferPlugin.h>

#include <fstream>
#include <iterator>
#include <mutex>
#include <utility>

#include "../tensors.hpp"
#include "anydepth/errors.hpp"
#include "registry.hpp"
#include "tensorrt_checks.hpp"

// What 10.1 calls by a second name, since 32 bits held its size before.
#define ANYDEPTH_TENSORRT_V2 \
  (NV_TENSORRT_MAJOR > 10 || (NV_TENSORRT_MAJOR == 10 && NV_TENSORRT_MINOR >= 1))

namespace anydepth {
namespace {

/// Keeps the first error since it was last cleared. TensorRT takes the first logger of a process
/// for all, so an application that has its own hears what this one does not.
class Log : public nvinfer1::ILogger {
 public:
  void log(Severity severity, char const* message) noexcept override {
    if (severity == Severity::kERROR || severity == Severity::kINTERNAL_ERROR) {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (first_.empty()) {
        first_ = message;
      }
    }
  }
  void clear() {
    const std::lock_guard<std::mutex> lock(mutex_);
    first_.clear();
  }
  std::string reason() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return first_.empty() ? "it gives no reason" : first_.substr(0, first_.find('\n'));
  }

 private:
  mutable std::mutex mutex_;
  std::string first_;
};

// Both live as long as the process: engines may outlive the end of main.
Log& messages() {
  static auto& made = *new Log;
  return made;
}

nvinfer1::IRuntime& runtime() {
  static auto* const made = [] {
    initLibNvInferPlugins(&messages(), "");
    return nvinfer1::createInferRuntime(messages());
  }();
  if (made == nullptr) {
    throw DeviceError("TensorRT does not start: " + messages().reason() +
                      ": check that it is the version for this driver");
  }
  return *made;
}

std::string library_version() {
  const auto number = getInferLibVersion();
  const auto unit = number < 10000 ? 1000 : 10000;  // since 10, which needs another digit
  return std::to_string(number / unit) + "." + std::to_string(number % unit / 100) + "." +
         std::to_string(number % 100);
}

std::vector<std::int64_t> shape_from(const nvinfer1::Dims& dims) {
  return {dims.d, dims.d + dims.nbDims};
}

std::optional<Type> type_from(nvinfer1::DataType type) {
  switch (type) {
    case nvinfer1::DataType::kFLOAT:
      return Type::kFloat32;
    case nvinfer1::DataType::kHALF:
      return Type::kFloat16;
    case nvinfer1::DataType::kINT8:
      return Type::kInt8;
    case nvinfer1::DataType::kINT32:
      return Type::kInt32;
    case nvinfer1::DataType::kBOOL:
      return Type::kBool;
    case nvinfer1::DataType::kUINT8:
      return Type::kUInt8;
#if NV_TENSORRT_MAJOR >= 9
    case nvinfer1::DataType::kINT64:
      return Type::kInt64;
#endif
    default:
      return std::nullopt;
  }
}

std::vector<char> content_of(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::vector<char> content{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (!file && !file.eof()) {
    throw BundleError(path.string() + " cannot be read: check its permissions");
  }
  return content;
}

}  // namespace

std::string tensorrt_version() { return library_version(); }

LoadedEngine::LoadedEngine(const std::filesystem::path& path, const EngineSpec& spec,
                           const Device& device)
    : name_(path.filename().string()) {
  check_engine(path, spec, device.name, device.capability, library_version());
  const auto content = content_of(path);
  check_memory(content.size(), path.string(), device);
  messages().clear();
  engine_.reset(runtime().deserializeCudaEngine(content.data(), content.size()));
  if (engine_ == nullptr) {
    throw BundleError("TensorRT " + library_version() + " cannot load " + path.string() + ": " +
                      messages().reason() + ". Build it again on this device");
  }
#if NV_TENSORRT_MAJOR >= 10
  context_.reset(engine_->createExecutionContext(
      nvinfer1::ExecutionContextAllocationStrategy::kUSER_MANAGED));
#else
  context_.reset(engine_->createExecutionContextWithoutDeviceMemory());
#endif
  if (context_ == nullptr) {
    throw DeviceError(name_ + ": TensorRT made no execution context: " + messages().reason());
  }
  for (std::int32_t index = 0; index < engine_->getNbIOTensors(); ++index) {
    const auto* const tensor = engine_->getIOTensorName(index);
    const auto input = engine_->getTensorIOMode(tensor) == nvinfer1::TensorIOMode::kINPUT;
    (input ? inputs_ : outputs_).push_back(port(tensor));
  }
}

Port LoadedEngine::port(const char* name) const {
  const auto type = type_from(engine_->getTensorDataType(name));
  if (!type) {
    throw BundleError(name_ + " has a tensor " + name +
                      " of a type that this library does not know: build it from a graph of this "
                      "project");
  }
  const auto host = engine_->getTensorLocation(name) == nvinfer1::TensorLocation::kHOST;
  return {name, *type, shape_from(engine_->getTensorShape(name)), host};
}

std::size_t LoadedEngine::scratch() const {
#if ANYDEPTH_TENSORRT_V2
  return static_cast<std::size_t>(engine_->getDeviceMemorySizeV2());
#else
  return engine_->getDeviceMemorySize();
#endif
}

void LoadedEngine::use_scratch(std::byte* memory, std::size_t size) {
#if ANYDEPTH_TENSORRT_V2
  context_->setDeviceMemoryV2(memory, static_cast<std::int64_t>(size));
#else
  (void)size;
  context_->setDeviceMemory(memory);
#endif
}

void LoadedEngine::set_shape(const std::string& name, const std::vector<std::int64_t>& shape) {
  nvinfer1::Dims dims{};
  dims.nbDims = static_cast<std::int32_t>(shape.size());
  for (std::size_t axis = 0; axis < shape.size(); ++axis) {
    // Of 32 bits before version 10.
    dims.d[axis] = static_cast<std::decay_t<decltype(dims.d[0])>>(shape[axis]);
  }
  messages().clear();
  if (!context_->setInputShape(name.c_str(), dims)) {
    refuse("does not take " + name + " of shape " + written(shape));
  }
}

void LoadedEngine::infer_shapes() {
  messages().clear();
  const char* missing = nullptr;
  if (context_->inferShapes(1, &missing) != 0) {
    refuse(std::string("cannot tell its outputs' shapes") +
           (missing == nullptr ? "" : std::string(" without ") + missing));
  }
}

std::vector<std::int64_t> LoadedEngine::shape_of(const std::string& name) const {
  return shape_from(context_->getTensorShape(name.c_str()));
}

std::size_t LoadedEngine::most(const std::string& name) const {
  const auto size = context_->getMaxOutputSize(name.c_str());
  if (size < 0) {
    refuse("cannot tell the size of " + name);
  }
  return static_cast<std::size_t>(size);
}

void LoadedEngine::bind(const std::string& name, std::byte* address) {
  if (!context_->setTensorAddress(name.c_str(), address)) {
    refuse("takes no memory for " + name);
  }
}

void LoadedEngine::place(const std::string& name, OutputPlace& place) {
  if (!context_->setOutputAllocator(name.c_str(), &place)) {
    refuse("takes no allocator for " + name);
  }
}

void LoadedEngine::execute(const Stream& stream) {
  messages().clear();
  if (!context_->enqueueV3(stream.handle())) {
    throw DeviceError(name_ + " failed to run: " + messages().reason());
  }
}

void LoadedEngine::refuse(const std::string& what) const {
  throw BundleError(name_ + " " + what + ": " + messages().reason() + ". Build it again");
}

}  // namespace anydepth
