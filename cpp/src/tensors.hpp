/// \file
/// What backends and sessions do with arrays: make, convert and write them out for messages.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "anydepth/tensor.hpp"

namespace anydepth {

/// An array of its own, not initialised. `data` is where to write.
struct NewTensor {
  Tensor tensor;
  std::byte* data = nullptr;
};

NewTensor make_tensor(Type type, const std::vector<std::int64_t>& shape);

/// A copy of what somebody else owns.
Tensor copy_of(const TensorView& view);

/// `tensor` as int64 where it is int32, which some runtimes compute instead; else itself.
Tensor widened(const Tensor& tensor);

/// `[1, 3, 640, 640]`
std::string written(const std::vector<std::int64_t>& shape);

/// The elements, for arrays of that type.
template <typename Element>
const Element* elements_of(const TensorView& view) {
  return static_cast<const Element*>(view.data);
}

}  // namespace anydepth
