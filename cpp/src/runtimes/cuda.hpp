/// \file
/// CUDA as far as engines need it: a device, memory and one stream. Every status that is not
/// success becomes a DeviceError. Compiled, never run: unverified on hardware.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <memory>
#include <string>

namespace anydepth {

/// Throws DeviceError where `status`, of `function`, is not success.
void check_cuda(cudaError_t status, const char* function);

/// A GPU.
struct Device {
  int index = 0;
  std::string name;
  /// `sm87`
  std::string capability;
};

/// The GPU that is current in this thread. Throws DeviceError where there is none.
Device current_device();

/// Makes a device current in this thread for a while.
class OnDevice {
 public:
  explicit OnDevice(const Device& device);
  ~OnDevice();
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  int before_ = 0;
  int index_ = 0;
};

/// Whether `needed` bytes are free on `device`. Throws DeviceError; `what` is what needs them.
void check_memory(std::size_t needed, const std::string& what, const Device& device);

/// A block that grows and never shrinks: on the device, or of the host and pinned, so that the
/// device copies from and to it while the host goes on. Nothing may be under way when it grows.
class Block {
 public:
  enum class Where { kDevice, kPinned };

  explicit Block(Where where) : where_(where) {}
  /// Has at least `size` bytes, and at least one. Throws DeviceError.
  std::byte* reserve(std::size_t size);
  std::byte* data() const { return memory_.get(); }

 private:
  Where where_;
  std::size_t size_ = 0;
  std::unique_ptr<std::byte, void (*)(std::byte*)> memory_{nullptr, nullptr};
};

/// A queue of work; what is put into it happens in order, some time before wait() returns.
class Stream {
 public:
  Stream();
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  cudaStream_t handle() const { return handle_; }
  void copy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) const;
  void wait() const;
  /// The same where something has failed already: an error in it is not the first.
  void settle() const noexcept;

 private:
  cudaStream_t handle_ = nullptr;
};

}  // namespace anydepth
