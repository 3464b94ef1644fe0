#include "fixed_depth.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <optional>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace anydepth {
namespace {

constexpr std::string_view kDepth = "depth";

// Bytes of a constant from which on it stays in the file: ONNX Runtime wants shapes and the like
// inside the graph.
constexpr std::size_t kLeast = 1024;

// Fields of ModelProto and its parts, by their numbers in onnx.proto.
constexpr std::uint64_t kGraph = 7;
constexpr std::uint64_t kNode = 1;
constexpr std::uint64_t kInitializer = 5;
constexpr std::uint64_t kInput = 11;
constexpr std::uint64_t kPortName = 1;
constexpr std::uint64_t kAttribute = 5;
constexpr std::uint64_t kSubgraph = 6;
constexpr std::uint64_t kDataType = 2;
constexpr std::uint64_t kName = 8;
constexpr std::uint64_t kRawData = 9;
constexpr std::uint64_t kExternal = 13;
constexpr std::uint64_t kLocationKind = 14;
constexpr std::uint64_t kInt64 = 7;
constexpr std::uint64_t kInAFile = 1;

// How the bytes of a field are to be read.
constexpr std::uint64_t kVarint = 0;
constexpr std::uint64_t kFixed64 = 1;
constexpr std::uint64_t kBytes = 2;

[[noreturn]] void fail(const std::filesystem::path& path) {
  throw std::system_error(errno, std::generic_category(), path.string());
}

/// A file in memory as long as this lives; pages that nobody reads take none.
class Mapped {
 public:
  explicit Mapped(const std::filesystem::path& path) {
    const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (file < 0) {
      fail(path);
    }
    struct stat found {};
    void* place = MAP_FAILED;
    if (::fstat(file, &found) == 0) {
      size_ = static_cast<std::size_t>(found.st_size);
      place = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file, 0);
    }
    const int error = errno;
    ::close(file);
    if (place == MAP_FAILED) {
      errno = error;
      fail(path);
    }
    data_ = static_cast<const char*>(place);
  }
  ~Mapped() { ::munmap(const_cast<char*>(data_), size_); }
  Mapped(const Mapped&) = delete;
  Mapped& operator=(const Mapped&) = delete;

  std::string_view content() const { return {data_, size_}; }

 private:
  const char* data_ = nullptr;
  std::size_t size_ = 0;
};

std::string coded(std::uint64_t number) {
  std::string found;
  for (; number > 127; number >>= 7) {
    found += static_cast<char>((number & 127) | 128);
  }
  return found + static_cast<char>(number);
}

std::string field_of(std::uint64_t number, std::string_view content) {
  return coded(number << 3 | kBytes) + coded(content.size()) + std::string(content);
}

std::string number_of(std::uint64_t number, std::uint64_t value) {
  return coded(number << 3 | kVarint) + coded(value);
}

/// `begin`: of the field; `value`: of what it holds; `end`: of both.
struct Field {
  std::uint64_t number = 0;
  std::uint64_t wire = 0;
  std::size_t begin = 0;
  std::size_t value = 0;
  std::size_t end = 0;
};

class Rewriting {
 public:
  Rewriting(std::string_view content, std::string location)
      : content_(content), location_(std::move(location)) {}

  std::string model(std::size_t row) const {
    std::string found;
    for (const auto& field : fields(0, content_.size())) {
      found += field.number == kGraph ? field_of(kGraph, outer_graph(field, row)) : copied(field);
    }
    return found;
  }

 private:
  enum class Part { kOfGraph, kOfNode, kOfAttribute };

  /// The outer graph, with a constant in place of its input `depth`.
  std::string outer_graph(const Field& graph, std::size_t row) const {
    std::string data;
    for (std::size_t byte = 0; byte < 8; ++byte) {
      data += static_cast<char>(static_cast<std::uint64_t>(row) >> (8 * byte) & 255);
    }
    std::vector<Field> kept;
    for (const auto& field : fields(graph.value, graph.end)) {
      if (field.number != kInput || bytes_of(field, kPortName) != kDepth) {
        kept.push_back(field);
      }
    }
    const auto constant =
        number_of(kDataType, kInt64) + field_of(kName, kDepth) + field_of(kRawData, data);
    return rewritten(kept, Part::kOfGraph) + field_of(kInitializer, constant);
  }

  std::string rewritten(const std::vector<Field>& fields_of_part, Part part) const {
    std::string found;
    for (const auto& field : fields_of_part) {
      std::optional<Part> inner;
      if (part == Part::kOfGraph && field.number == kNode) {
        inner = Part::kOfNode;
      } else if (part == Part::kOfNode && field.number == kAttribute) {
        inner = Part::kOfAttribute;
      } else if (part == Part::kOfAttribute && field.number == kSubgraph) {
        inner = Part::kOfGraph;
      }
      if (field.wire != kBytes) {
        found += copied(field);
      } else if (inner) {
        found += field_of(field.number, rewritten(fields(field.value, field.end), *inner));
      } else if (part == Part::kOfGraph && field.number == kInitializer) {
        found += field_of(field.number, tensor(field));
      } else {
        found += copied(field);
      }
    }
    return found;
  }

  /// A constant, which stays in the file where it is large.
  std::string tensor(const Field& whole) const {
    const auto parts = fields(whole.value, whole.end);
    std::vector<Field> data;
    std::string found;
    for (const auto& part : parts) {
      if (part.number == kRawData) {
        data.push_back(part);
      } else {
        found += copied(part);
      }
    }
    if (location_.empty() || data.size() != 1 || data.front().end - data.front().value < kLeast) {
      return std::string(content_.substr(whole.value, whole.end - whole.value));
    }
    const auto offset = data.front().value;
    const std::vector<std::pair<std::string, std::string>> entries{
        {"location", location_},
        {"offset", std::to_string(offset)},
        {"length", std::to_string(data.front().end - offset)},
    };
    for (const auto& [key, value] : entries) {
      found += field_of(kExternal, field_of(1, key) + field_of(2, value));
    }
    return found + number_of(kLocationKind, kInAFile);
  }

  std::string copied(const Field& field) const {
    return std::string(content_.substr(field.begin, field.end - field.begin));
  }

  /// The value of a field of bytes inside `whole`.
  std::optional<std::string_view> bytes_of(const Field& whole, std::uint64_t number) const {
    for (const auto& field : fields(whole.value, whole.end)) {
      if (field.number == number && field.wire == kBytes) {
        return content_.substr(field.value, field.end - field.value);
      }
    }
    return std::nullopt;
  }

  std::vector<Field> fields(std::size_t start, std::size_t stop) const {
    std::vector<Field> found;
    for (std::size_t place = start; place < stop;) {
      Field field;
      field.begin = place;
      const auto key = varint(place);
      field.number = key >> 3;
      field.wire = key & 7;
      field.value = place;
      if (field.wire == kVarint) {
        varint(place);
      } else if (field.wire == kBytes) {
        const auto size = varint(place);
        field.value = place;
        place += size;
      } else {
        place += field.wire == kFixed64 ? 8 : 4;
      }
      field.end = place;
      found.push_back(field);
    }
    return found;
  }

  std::uint64_t varint(std::size_t& place) const {
    std::uint64_t number = 0;
    for (unsigned shift = 0;; shift += 7) {
      const auto byte = static_cast<unsigned char>(content_.at(place++));
      number |= static_cast<std::uint64_t>(byte & 127) << shift;
      if (byte < 128) {
        return number;
      }
    }
  }

  std::string_view content_;
  std::string location_;
};

}  // namespace

std::string fix_depth(const std::filesystem::path& path, std::size_t row,
                      const std::string& location) {
  const Mapped file(path);
  return Rewriting(file.content(), location).model(row);
}

std::string identity_of(const std::filesystem::path& path) {
  struct stat found {};
  if (::stat(path.c_str(), &found) != 0) {
    fail(path);
  }
  const auto changed = std::filesystem::last_write_time(path).time_since_epoch().count();
  return std::to_string(found.st_dev) + " " + std::to_string(found.st_ino) + " " +
         std::to_string(found.st_size) + " " + std::to_string(changed);
}

}  // namespace anydepth
