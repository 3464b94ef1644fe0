#include "cuda.hpp"

#include <array>
#include <cstdio>

#include "anydepth/errors.hpp"

namespace anydepth {
namespace {

std::string megabytes(std::size_t size) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.1f MB", static_cast<double>(size) / 1e6);
  return text.data();
}

}  // namespace

void check_cuda(cudaError_t status, const char* function) {
  if (status == cudaSuccess) {
    return;
  }
  // The runtime keeps the error for whoever asks next, which might be TensorRT.
  (void)cudaGetLastError();
  throw DeviceError(std::string(function) + " failed on the GPU: " + cudaGetErrorString(status) +
                    " (error " + std::to_string(static_cast<int>(status)) + ")");
}

Device current_device() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
    (void)cudaGetLastError();
    throw DeviceError(
        "no NVIDIA GPU can be used here (no device, or no driver new enough): run engines where "
        "nvidia-smi lists one");
  }
  Device device;
  check_cuda(cudaGetDevice(&device.index), "cudaGetDevice");
  cudaDeviceProp found{};
  check_cuda(cudaGetDeviceProperties(&found, device.index), "cudaGetDeviceProperties");
  device.name = found.name;
  device.capability = "sm" + std::to_string(found.major) + std::to_string(found.minor);
  return device;
}

OnDevice::OnDevice(const Device& device) : index_(device.index) {
  check_cuda(cudaGetDevice(&before_), "cudaGetDevice");
  if (before_ != index_) {
    check_cuda(cudaSetDevice(index_), "cudaSetDevice");
  }
}

OnDevice::~OnDevice() {
  if (before_ != index_) {
    (void)cudaSetDevice(before_);
  }
}

void check_memory(std::size_t needed, const std::string& what, const Device& device) {
  std::size_t free = 0;
  std::size_t total = 0;
  check_cuda(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  if (needed > free) {
    throw DeviceError(what + ": not enough memory on " + device.name + ": needed " +
                      megabytes(needed) + ", free " + megabytes(free) +
                      "; close other programs, or build engines for smaller batches");
  }
}

std::byte* Block::reserve(std::size_t size) {
  if (memory_ != nullptr && size <= size_) {
    return memory_.get();
  }
  size = size == 0 ? 1 : size;
  memory_.reset();  // first, or both would be there at once
  void* found = nullptr;
  if (where_ == Where::kDevice) {
    check_cuda(cudaMalloc(&found, size), "cudaMalloc");
    memory_ = {static_cast<std::byte*>(found), [](std::byte* given) { (void)cudaFree(given); }};
  } else {
    check_cuda(cudaHostAlloc(&found, size, cudaHostAllocDefault), "cudaHostAlloc");
    memory_ = {static_cast<std::byte*>(found), [](std::byte* given) { (void)cudaFreeHost(given); }};
  }
  size_ = size;
  return memory_.get();
}

Stream::Stream() {
  check_cuda(cudaStreamCreateWithFlags(&handle_, cudaStreamNonBlocking),
             "cudaStreamCreateWithFlags");
}

Stream::~Stream() { (void)cudaStreamDestroy(handle_); }

void Stream::copy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) const {
  if (bytes != 0) {
    check_cuda(cudaMemcpyAsync(to, from, bytes, kind, handle_), "cudaMemcpyAsync");
  }
}

void Stream::wait() const { check_cuda(cudaStreamSynchronize(handle_), "cudaStreamSynchronize"); }

void Stream::settle() const noexcept { (void)cudaStreamSynchronize(handle_); }

}  // namespace anydepth
