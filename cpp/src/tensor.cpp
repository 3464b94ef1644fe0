#include "anydepth/tensor.hpp"

#include <algorithm>
#include <cstring>

#include "tensors.hpp"

namespace anydepth {

std::size_t size_of(Type type) {
  switch (type) {
    case Type::kInt64:
      return 8;
    case Type::kFloat32:
    case Type::kInt32:
      return 4;
    case Type::kFloat16:
      return 2;
    case Type::kBool:
    case Type::kUInt8:
    case Type::kInt8:
      return 1;
  }
  return 0;
}

const char* name_of(Type type) {
  switch (type) {
    case Type::kFloat32:
      return "float32";
    case Type::kFloat16:
      return "float16";
    case Type::kInt64:
      return "int64";
    case Type::kInt32:
      return "int32";
    case Type::kBool:
      return "bool";
    case Type::kUInt8:
      return "uint8";
    case Type::kInt8:
      return "int8";
  }
  return "unknown";
}

std::size_t TensorView::elements() const {
  std::size_t count = 1;
  for (const auto side : shape) {
    count *= static_cast<std::size_t>(side);
  }
  return count;
}

NewTensor make_tensor(Type type, const std::vector<std::int64_t>& shape) {
  NewTensor made;
  made.tensor.view = TensorView{nullptr, type, shape};
  // Never empty, so that there is an address; new[] aligns it for any element.
  const auto bytes = std::max<std::size_t>(1, made.tensor.view.bytes());
  const std::shared_ptr<std::byte[]> memory(new std::byte[bytes]);
  made.data = memory.get();
  made.tensor.view.data = made.data;
  made.tensor.memory = std::shared_ptr<const void>(memory, memory.get());
  return made;
}

Tensor copy_of(const TensorView& view) {
  const auto made = make_tensor(view.type, view.shape);
  if (const auto bytes = view.bytes(); bytes != 0) {
    std::memcpy(made.data, view.data, bytes);
  }
  return made.tensor;
}

Tensor widened(const Tensor& tensor) {
  if (tensor.view.type != Type::kInt32) {
    return tensor;
  }
  const auto made = make_tensor(Type::kInt64, tensor.view.shape);
  const auto* from = elements_of<std::int32_t>(tensor.view);
  std::copy(from, from + tensor.view.elements(), reinterpret_cast<std::int64_t*>(made.data));
  return made.tensor;
}

std::string written(const std::vector<std::int64_t>& shape) {
  std::string text = "[";
  for (std::size_t place = 0; place < shape.size(); ++place) {
    text += (place == 0 ? "" : ", ") + std::to_string(shape[place]);
  }
  return text + "]";
}

}  // namespace anydepth
