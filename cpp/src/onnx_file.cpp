// The file is a message of Protocol Buffers: fields with a number and, for what matters here, a
// length. So weights are passed over, and a file of hundreds of megabytes takes a millisecond.

#include "onnx_file.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <fstream>
#include <map>
#include <system_error>
#include <utility>

#include "anydepth/errors.hpp"
#include "text.hpp"

namespace anydepth {
namespace {

// How the bytes of a field are to be read.
enum Kind : unsigned { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

// More than any graph of this project has; they limit the time that a made-up one can cost.
constexpr std::size_t kMostFields = 1'000'000;
constexpr std::uint64_t kMostText = 1U << 24U;
constexpr std::size_t kMostNames = 64;
constexpr int kDeepest = 32;

constexpr std::size_t kBlock = 1U << 16U;
// Parts up to this size are searched in one go, which is quicker than field by field.
constexpr std::uint64_t kSearched = 1U << 12U;
constexpr const char* kLocation = "location";
constexpr const char* kOurs = "anydepth.";

// Fields by their numbers in onnx.proto.
constexpr unsigned kTheGraph = 7;
constexpr unsigned kMetadata = 14;
constexpr unsigned kInput = 11;
constexpr unsigned kOutput = 12;
constexpr unsigned kValueInfo = 13;
constexpr unsigned kTensorName = 8;
constexpr unsigned kExternal = 13;

enum class Part { kModel, kTraining, kFunction, kGraph, kNode, kAttribute, kSparse, kTensor };

/// The fields of a part that lead to tensors.
const std::map<unsigned, Part>& inside(Part part) {
  static const std::map<Part, std::map<unsigned, Part>> known{
      {Part::kModel, {{20, Part::kTraining}, {25, Part::kFunction}}},
      {Part::kTraining, {{1, Part::kGraph}, {2, Part::kGraph}}},
      {Part::kFunction, {{7, Part::kNode}, {11, Part::kAttribute}}},
      {Part::kGraph, {{1, Part::kNode}, {5, Part::kTensor}, {15, Part::kSparse}}},
      {Part::kNode, {{5, Part::kAttribute}}},
      {Part::kAttribute,
       {{5, Part::kTensor},
        {6, Part::kGraph},
        {10, Part::kTensor},
        {11, Part::kGraph},
        {22, Part::kSparse},
        {23, Part::kSparse}}},
      {Part::kSparse, {{1, Part::kTensor}, {2, Part::kTensor}}},
      {Part::kTensor, {}},
  };
  return known.at(part);
}

/// The name that NumPy has for an element type of ONNX.
std::string type_name(std::uint64_t code) {
  static const std::map<std::uint64_t, const char*> known{
      {1, "float32"}, {2, "uint8"},    {3, "int8"},     {6, "int32"},    {7, "int64"},
      {9, "bool"},    {10, "float16"}, {11, "float64"}, {16, "bfloat16"}};
  const auto found = known.find(code);
  return found == known.end() ? "type " + std::to_string(code) : found->second;
}

/// What stands between quotes.
std::vector<std::string> quoted(const std::string& text) {
  std::vector<std::string> found;
  std::size_t start = 0;
  for (bool inside_quotes = false; start <= text.size(); inside_quotes = !inside_quotes) {
    const auto end = std::min(text.find('"', start), text.size());
    if (inside_quotes && end > start) {
      found.push_back(text.substr(start, end - start));
    }
    start = end + 1;
  }
  return found;
}

std::string raw_entry(const std::map<std::string, std::string>& metadata) {
  const auto found = metadata.find(kRawMetadata);
  return found == metadata.end() ? "" : found->second;
}

/// Where something begins and ends in the file.
struct Span {
  std::uint64_t start = 0;
  std::uint64_t end = 0;
};

struct Field {
  std::uint64_t number = 0;
  unsigned kind = kBytes;
  Span content;
};

/// One file, of which a block is in memory.
class Reader {
 public:
  explicit Reader(const std::filesystem::path& path) : path_(path) {
    errno = 0;
    file_.open(path, std::ios::binary);
    file_.seekg(0, std::ios::end);
    const auto size = file_.tellg();
    if (!file_ || size < 0) {
      cannot_read();
    }
    size_ = static_cast<std::uint64_t>(size);
  }

  OnnxFile read() {
    OnnxFile found;
    std::vector<Span> graphs;
    each({0, size_}, [&](const Field& field) {
      if (field.kind != kBytes) {
        return;
      }
      if (field.number == kTheGraph) {
        graphs.push_back(field.content);
      } else if (field.number == kMetadata) {
        add_entry(found.metadata, field.content);
      } else {
        look_inside(Part::kModel, field, 1);
      }
    });
    if (graphs.size() != 1) {
      refuse(size_, graphs.empty() ? "it holds no graph" : "it holds several graphs");
    }
    read_graph(found, graphs.front());
    if (found.outputs.empty()) {
      refuse(size_, "its graph has no outputs");
    }
    return found;
  }

 private:
  void read_graph(OnnxFile& found, const Span& graph) {
    // Names are quoted there, as JSON has them; what is quoted and names no tensor does no harm.
    auto raw = quoted(raw_entry(found.metadata));
    std::sort(raw.begin(), raw.end());
    raw.erase(std::unique(raw.begin(), raw.end()), raw.end());
    if (raw.size() > kMostNames) {
      refuse(graph.end, std::string("its entry ") + kRawMetadata + " has more than " +
                            std::to_string(kMostNames) + " names");
    }
    each(graph, [&](const Field& field) {
      if (field.kind != kBytes) {
        return;
      }
      if (field.number == kInput) {
        found.inputs.push_back(port(field.content));
      } else if (field.number == kOutput) {
        found.outputs.push_back(port(field.content));
      } else if (field.number == kValueInfo) {
        if (says(raw, field.content)) {
          auto described = port(field.content);
          if (std::find(raw.begin(), raw.end(), described.name) != raw.end()) {
            auto name = described.name;
            found.tensors[std::move(name)] = std::move(described);
          }
        }
      } else {
        look_inside(Part::kGraph, field, 1);
      }
    });
  }

  /// Refuses tensors in a field of `part` whose numbers lie in other files.
  void look_inside(Part part, const Field& field, int depth) {
    const auto& known = inside(part);
    const auto found = field.number > 64 ? known.end() : known.find(unsigned(field.number));
    if (field.kind == kBytes && found != known.end()) {
      look(found->second, field.content, depth);
    }
  }

  void look(Part part, const Span& span, int depth) {
    if (depth > kDeepest) {
      refuse(span.start, "its parts are nested too deep");
    }
    // Almost every part is small and says nothing of the kind, which one search shows.
    if (span.end - span.start <= kSearched && !says({kLocation}, span)) {
      return;
    }
    each(span, [&](const Field& field) {
      if (part != Part::kTensor) {
        look_inside(part, field, depth + 1);
      } else if (field.kind == kBytes && field.number == kExternal &&
                 text_of(1, field.content) == kLocation) {
        throw BundleError(path_.string() + " has the numbers of '" +
                          shown(name_of(kTensorName, span, span)) + "' in another file, '" +
                          shown(name_of(2, field.content, span)) +
                          "', which no manifest vouches for; expected all of them in the graph: "
                          "export it again");
      }
    });
  }

  void add_entry(std::map<std::string, std::string>& metadata, const Span& span) {
    const auto key = text_of(1, span);
    if (key.rfind(kOurs, 0) != 0) {
      return;
    }
    if (!is_utf8(key)) {
      refuse(span.start, "a name is no text");
    }
    auto value = text_of(2, span);
    if (!is_utf8(value)) {
      refuse(span.start, "its entry " + shown(key) + " is no text");
    }
    if (!metadata.emplace(key, std::move(value)).second) {
      refuse(span.start, "it has two entries " + shown(key));
    }
  }

  /// A ValueInfoProto: name (1), type (2) with tensor_type (1) with elem_type (1) and shape (2)
  /// with dim (1) with dim_value (1).
  GraphPort port(const Span& span) {
    GraphPort found;
    found.name = name_of(1, span, span);
    each(span, 2, [&](const Span& type) {
      each(type, 1, [&](const Span& tensor) {
        each(tensor, [&](const Field& field) {
          if (field.number == 1 && field.kind == kVarint) {
            found.dtype = type_name(number_at(field.content));
          } else if (field.number == 2 && field.kind == kBytes) {
            found.shape.emplace();
            each(field.content, 1,
                 [&](const Span& side) { found.shape->push_back(dimension(side)); });
          }
        });
      });
    });
    return found;
  }

  /// -1 where any number goes.
  std::int64_t dimension(const Span& span) {
    std::uint64_t value = 1ULL << 63U;
    each(span, [&](const Field& field) {
      if (field.number == 1 && field.kind == kVarint) {
        value = number_at(field.content);
      }
    });
    return value >> 63U != 0 ? -1 : static_cast<std::int64_t>(value);
  }

  /// The last field `wanted`, which is the one that counts; empty where there is none.
  std::string text_of(unsigned wanted, const Span& span) {
    Span last{span.start, span.start};
    each(span, wanted, [&](const Span& found) { last = found; });
    if (last.end - last.start > kMostText) {
      refuse(last.start, "a text is longer than any graph has");
    }
    return bytes_of(last);
  }

  /// A field that has to be text; `part` is what it belongs to.
  std::string name_of(unsigned wanted, const Span& span, const Span& part) {
    auto name = text_of(wanted, span);
    if (!is_utf8(name)) {
      refuse(part.start, "a name is no text");
    }
    return name;
  }

  std::string bytes_of(const Span& span) {
    std::string text;
    for (auto place = span.start; place < span.end;) {
      byte(place);
      const auto from = static_cast<std::size_t>(place - start_);
      const auto count = std::min<std::uint64_t>(span.end - place, block_.size() - from);
      text.append(block_, from, static_cast<std::size_t>(count));
      place += count;
    }
    return text;
  }

  /// Whether a small part has one of `words` in it.
  bool says(const std::vector<std::string>& words, const Span& span) {
    if (words.empty() || span.end - span.start > kSearched) {
      return false;
    }
    const auto text = bytes_of(span);
    return std::any_of(words.begin(), words.end(), [&](const std::string& word) {
      return text.find(word) != std::string::npos;
    });
  }

  template <typename Visit>
  void each(const Span& span, unsigned wanted, Visit visit) {
    each(span, [&](const Field& field) {
      if (field.number == wanted && field.kind == kBytes) {
        visit(field.content);
      }
    });
  }

  /// Calls `visit` for every field of a message.
  template <typename Visit>
  void each(const Span& span, Visit visit) {
    for (auto place = span.start; place < span.end;) {
      const Field field = field_at({place, span.end});
      visit(field);
      place = field.content.end;
    }
  }

  Field field_at(const Span& span) {
    if (++fields_ > kMostFields) {
      refuse(span.start, "it has more fields than any graph has");
    }
    auto place = span.start;
    const auto tag = number(place, span.end);
    Field field{tag >> 3U, static_cast<unsigned>(tag & 7U), {place, place}};
    auto left = span.end - place;
    std::uint64_t size = 0;
    switch (field.kind) {
      case kBytes:
        size = number(place, span.end);
        field.content.start = place;
        left = span.end - place;
        break;
      case kVarint:
        number(place, span.end);
        size = place - field.content.start;
        break;
      case kFixed32:
        size = 4;
        break;
      case kFixed64:
        size = 8;
        break;
      default:
        refuse(span.start, "a field is of an unknown kind");
    }
    if (field.number == 0 || size > left) {
      refuse(span.start, field.number == 0 ? "a field has no number" : "a field is cut off");
    }
    field.content.end = field.content.start + size;
    return field;
  }

  std::uint64_t number_at(const Span& span) {
    auto place = span.start;
    return number(place, span.end);
  }

  /// A number of 7 bits a byte, the lowest first; moves `place` behind it.
  std::uint64_t number(std::uint64_t& place, std::uint64_t end) {
    const auto start = place;
    std::uint64_t value = 0;
    for (unsigned count = 0; count < 10 && place < end; ++count) {
      const std::uint64_t next = byte(place++);
      if (count == 9 && next > 1) {
        break;
      }
      value |= (next & 0x7FU) << (7 * count);
      if (next < 0x80) {
        return value;
      }
    }
    refuse(start, "a number is cut off, or longer than 64 bits");
  }

  /// The byte at `place`, which is in the file; its block is in memory then.
  unsigned char byte(std::uint64_t place) {
    if (place < start_ || place - start_ >= block_.size()) {
      block_.resize(kBlock);
      errno = 0;
      file_.clear();
      file_.seekg(static_cast<std::streamoff>(place));
      file_.read(block_.data(), static_cast<std::streamsize>(kBlock));
      block_.resize(static_cast<std::size_t>(file_.gcount()));
      start_ = place;
      if (block_.empty()) {
        cannot_read();
      }
    }
    return static_cast<unsigned char>(block_[static_cast<std::size_t>(place - start_)]);
  }

  [[noreturn]] void refuse(std::uint64_t place, const std::string& problem) const {
    throw BundleError(path_.string() + " is not a whole ONNX graph (byte " + std::to_string(place) +
                      ": " + problem + "): export it again");
  }

  [[noreturn]] void cannot_read() const {
    throw BundleError(path_.string() + " cannot be read: " +
                      std::generic_category().message(errno != 0 ? errno : EIO));
  }

  std::filesystem::path path_;
  std::ifstream file_;
  std::uint64_t size_ = 0;
  std::string block_;
  std::uint64_t start_ = 0;
  std::size_t fields_ = 0;
};

}  // namespace

OnnxFile read_onnx_file(const std::filesystem::path& path) { return Reader(path).read(); }

std::string first_letters(const std::string& text, std::size_t most) {
  std::size_t letters = 0;
  for (std::size_t place = 0; place < text.size(); ++place) {
    const bool begins = (static_cast<unsigned char>(text[place]) & 0xC0U) != 0x80U;
    if (begins && ++letters > most) {
      return text.substr(0, place);
    }
  }
  return text;
}

}  // namespace anydepth
