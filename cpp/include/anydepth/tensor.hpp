/// \file
/// Arrays of the host, as engines take and give them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "anydepth/export.hpp"

namespace anydepth {

enum class Type { kFloat32, kFloat16, kInt64, kInt32, kBool, kUInt8, kInt8 };

/// Bytes of one element.
ANYDEPTH_EXPORT std::size_t size_of(Type type);
/// The name that numpy has for it: `float32`.
ANYDEPTH_EXPORT const char* name_of(Type type);

/// An array that somebody else owns, row-major.
struct TensorView {
  const void* data = nullptr;
  Type type = Type::kFloat32;
  std::vector<std::int64_t> shape;

  ANYDEPTH_EXPORT std::size_t elements() const;
  std::size_t bytes() const { return elements() * size_of(type); }
};

/// An array that keeps the memory it is in alive; copies share it.
struct Tensor {
  std::shared_ptr<const void> memory;
  TensorView view;
};

using Tensors = std::map<std::string, Tensor>;

}  // namespace anydepth
