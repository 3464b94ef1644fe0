/// \file
/// TensorRT 8.6 to 11 behind one set of calls: an engine's file, loaded, and the context that runs
/// it. Compiled against their headers, never run: unverified on hardware.
#pragma once

#include <NvInferRuntime.h>

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "anydepth/manifest.hpp"
#include "anydepth/tensor.hpp"
#include "cuda.hpp"

namespace anydepth {

/// An input or output of an engine; -1 where the shape is not fixed.
struct Port {
  std::string name;
  Type type = Type::kFloat32;
  std::vector<std::int64_t> shape;
  /// Whether the engine wants it in memory of the host.
  bool host = false;
};

/// Memory for an output whose shape depends on what is computed: `capacity` bytes at `address`, the
/// most it can need. `shape` is that of the newest run.
class OutputPlace : public nvinfer1::IOutputAllocator {
 public:
  OutputPlace(void* address, std::size_t capacity) : address_(address), capacity_(capacity) {}
#if NV_TENSORRT_MAJOR >= 10
  void* reallocateOutputAsync(char const*, void*, std::uint64_t size, std::uint64_t,
                              cudaStream_t) override {
    return size <= capacity_ ? address_ : nullptr;
  }
#else
  void* reallocateOutput(char const*, void*, std::uint64_t size, std::uint64_t) noexcept override {
    return size <= capacity_ ? address_ : nullptr;
  }
#endif
  void notifyShape(char const*, nvinfer1::Dims const& dims) noexcept override {
    shape.emplace(dims.d, dims.d + dims.nbDims);
  }

  std::optional<std::vector<std::int64_t>> shape;

 private:
  void* address_;
  std::size_t capacity_;
};

/// A deserialised engine and one context. To be used by one thread at a time.
class LoadedEngine {
 public:
  /// Checks and loads a file. Throws BundleError for one that was built for another device or with
  /// another version, or that is damaged, and DeviceError when memory is short.
  LoadedEngine(const std::filesystem::path& path, const EngineSpec& spec, const Device& device);

  const std::string& name() const { return name_; }
  const std::vector<Port>& inputs() const { return inputs_; }
  const std::vector<Port>& outputs() const { return outputs_; }
  /// Bytes of activations, which engines that run one after the other share.
  std::size_t scratch() const;
  void use_scratch(std::byte* memory, std::size_t size);

  /// Sets an input's shape; -1 of the outputs' is what only a run can tell.
  void set_shape(const std::string& name, const std::vector<std::int64_t>& shape);
  /// Throws BundleError where the shapes that were set do not suffice.
  void infer_shapes();
  std::vector<std::int64_t> shape_of(const std::string& name) const;
  /// Bytes that an output of unknown shape can take at most.
  std::size_t most(const std::string& name) const;
  void bind(const std::string& name, std::byte* address);
  void place(const std::string& name, OutputPlace& place);
  /// Puts its work into a stream. Throws DeviceError.
  void execute(const Stream& stream);

 private:
  [[noreturn]] void refuse(const std::string& what) const;
  Port port(const char* name) const;

  std::string name_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  std::unique_ptr<nvinfer1::IExecutionContext> context_;
  std::vector<Port> inputs_;
  std::vector<Port> outputs_;
};

}  // namespace anydepth
