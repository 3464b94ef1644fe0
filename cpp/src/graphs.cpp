#include "graphs.hpp"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <utility>
#include <variant>
#include <vector>

#include "anydepth/errors.hpp"
#include "json.hpp"
#include "json_reader.hpp"
#include "onnx_file.hpp"
#include "text.hpp"

namespace anydepth {
namespace {

constexpr const char* kTable = "anydepth.depths";
constexpr const char* kDepthOf = "anydepth.depth";
constexpr const char* kPiece = "anydepth.piece";
constexpr const char* kSource = "anydepth.source";
constexpr const char* kImages = "images";
constexpr const char* kDepth = "depth";

using Words = std::vector<std::string>;
using Metadata = std::map<std::string, std::string>;
using Shape = std::vector<std::int64_t>;

/// A raw output that tells the number of classes: the axis, and what else lies on it.
struct Telling {
  const char* name;
  std::size_t axis;
  std::int64_t others;
};
constexpr const char* kLogits = "raw_logits";
constexpr Telling kTelling[] = {{kLogits, 2, 0}, {"raw_predictions", 1, 4}};

/// Other families may call anything so: predictions are what suppression takes where there is one,
/// logits are of queries where the network says which tokens those are, as all DETRs do.
bool tells_classes(const std::string& output, const Manifest& manifest) {
  if (output == kLogits) {
    const auto& raw = manifest.raw_outputs;
    return std::any_of(raw.begin(), raw.end(),
                       [](const auto& name) { return name.first == "queries"; });
  }
  return manifest.suppression.has_value();
}

std::string listed(const Words& names) { return names.empty() ? "none" : join(names, ", "); }

/// `float32 [N, 3, 160, 160]`; a number that is not fixed is the batch's N, or a ?.
std::string described(const std::string& dtype, const std::optional<Shape>& shape) {
  if (!shape) {
    return dtype;
  }
  Words words;
  for (const auto side : *shape) {
    words.push_back(side >= 0 ? std::to_string(side) : words.empty() ? "N" : "?");
  }
  return dtype + " [" + join(words, ", ") + "]";
}

Words conditions(const StagePiece& piece) {
  Words found;
  for (const auto& item : piece.when) {
    found.push_back("gate " + std::to_string(item.gate) + " layer " + std::to_string(item.layer) +
                    (item.runs ? " runs" : " is skipped"));
  }
  return found;
}

Words links(const Names& names) {
  Words found;
  for (const auto& [name, tensor] : names) {
    found.push_back(name + " of " + tensor);
  }
  std::sort(found.begin(), found.end());
  return found;
}

/// The outputs that a session may ask for.
Words wanted_outputs(const Artifact& artifact, const Manifest& manifest) {
  const auto& rule = manifest.suppression;
  const bool ends_early = (rule && rule->where != Suppression::Where::kGraph) ||
                          (artifact.engine && !artifact.engine->detections);
  Words found;
  if (!ends_early) {
    found = {"labels", "boxes", "scores"};
  }
  for (const auto& output : manifest.raw_outputs) {
    if (artifact.raw) {
      found.push_back("raw_" + output.first);
    }
  }
  return found;
}

Names read_names(const JsonValue& value) {
  Names found;
  for (const auto& [name, tensor] : value.members()) {
    found.emplace_back(name, tensor.text());
  }
  return found;
}

/// What a graph says of its place in a chain. Throws InvalidJson.
StagePiece read_place(const JsonValue& value) {
  constexpr std::int64_t kMost = 1 << 30;
  const auto required = [&](const char* key) {
    auto found = value.member(key);
    if (!found) {
      value.refuse(key, "Field required");
    }
    return *found;
  };
  StagePiece piece;
  piece.order = static_cast<int>(required("order").integer(0, kMost));
  piece.total = static_cast<int>(required("total").integer(1, kMost));
  piece.stage = required("stage").text();
  piece.variant = required("variant").text();
  if (const auto when = value.member("when")) {
    for (const auto& item : when->items()) {
      JsonObject object(item);
      Condition condition;
      condition.gate = static_cast<std::size_t>(object.required("gate").integer(0, kMost));
      if (const auto layer = object.optional("layer")) {
        condition.layer = static_cast<int>(layer->integer(0, kMost));
      }
      condition.runs = object.required("runs").flag();
      object.finish();
      piece.when.push_back(condition);
    }
  }
  piece.reads = read_names(required("reads"));
  piece.writes = read_names(required("writes"));
  return piece;
}

/// A graph or an engine beside its manifest. `name`: its file or what else to call it; `kind`: what
/// it is; `remedy`: what to do where it differs.
class Check {
 public:
  Check(std::string name, std::string kind, std::string remedy)
      : name_(std::move(name)), kind_(std::move(kind)), remedy_(std::move(remedy)) {}

  void same(const std::string& what, const std::string& found, const std::string& expected) const {
    if (found != expected) {
      throw BundleError(name_ + " does not go with its manifest: " + what + " is " + shown(found) +
                        " in the " + kind_ + ", " + shown(expected) +
                        " in the manifest: " + remedy_);
    }
  }

  /// What `what` reads of the entry `key`.
  template <typename Read>
  auto read(const char* key, Read what) const -> decltype(what()) {
    try {
      return what();
    } catch (const InvalidJson&) {
      damaged(key);
    }
  }

  /// The depths by row.
  void table(const Metadata& metadata, const std::vector<Depth>& rows) const {
    const auto content = entry(metadata, kTable);
    if (!content) {
      return;
    }
    const auto depths = read(kTable, [&] {
      const auto found = JsonValue(*content).member("rows");
      return found ? found->texts() : throw InvalidJson("", "Field required");
    });
    same("the number of depths", std::to_string(depths.size()), std::to_string(rows.size()));
    for (std::size_t row = 0; row < rows.size(); ++row) {
      same("row " + std::to_string(row) + " of the depth table", depths[row], rows[row].text);
    }
  }

  /// The place in a chain.
  void piece(const Metadata& metadata, const StagePiece& expected) const {
    const auto content = entry(metadata, kPiece);
    if (!content) {
      return;
    }
    const auto found = read(kPiece, [&] { return read_place(JsonValue(*content)); });
    same("the piece's order", std::to_string(found.order), std::to_string(expected.order));
    same("the piece's total", std::to_string(found.total), std::to_string(expected.total));
    same("the piece's stage", found.stage, expected.stage);
    same("the piece's variant", found.variant, expected.variant);
    lists("condition", conditions(found), conditions(expected));
    lists("input", links(found.reads), links(expected.reads));
    lists("output", links(found.writes), links(expected.writes));
  }

  /// The tensors that hold the raw outputs, by their public names.
  Names raw_outputs(const Metadata& metadata) const {
    const auto content = entry(metadata, kRawMetadata);
    return content ? read(kRawMetadata, [&] { return read_names(JsonValue(*content)); })
                   : Names{};
  }

  /// The inputs, and the outputs that a session may ask for.
  void names(const GraphPorts& ports, const Artifact& artifact, const Manifest& manifest) const {
    Words given;
    for (const auto& port : ports.inputs) {
      given.push_back(port.name);
    }
    std::sort(given.begin(), given.end());
    given.erase(std::unique(given.begin(), given.end()), given.end());
    const Words inputs = artifact.layout == "gated" ? Words{kDepth, kImages} : Words{kImages};
    same("the list of inputs", listed(given), listed(inputs));
    const auto expected = wanted_outputs(artifact, manifest);
    Words present;
    for (const auto& name : expected) {
      if (std::any_of(ports.outputs.begin(), ports.outputs.end(),
                      [&](const GraphPort& port) { return port.name == name; })) {
        present.push_back(name);
      }
    }
    same("the list of outputs", listed(present), listed(expected));
  }

  /// Types and shapes, and what they tell.
  void shapes(const GraphPorts& ports, const Manifest& manifest) const {
    const auto& recipe = manifest.preprocess;
    for (const auto& port : ports.inputs) {
      if (port.name == kImages) {
        fits(port, {"float32"},
             {-1, 3, static_cast<std::int64_t>(recipe.height),
              static_cast<std::int64_t>(recipe.width)});
      } else if (port.name == kDepth) {
        fits(port, {"int64", "int32"}, {});
      }
    }
    for (const auto& port : ports.outputs) {
      if (port.name == "scores") {
        detections(port, manifest);
      }
      for (const auto& [name, axis, others] : kTelling) {
        if (port.name == name && tells_classes(name, manifest)) {
          size("the number of classes", port, 3, axis, manifest.classes.size(), others);
        }
      }
    }
  }

 private:
  /// Suppression gives as many as it may, or all that there are of each class.
  void detections(const GraphPort& port, const Manifest& manifest) const {
    const auto count = port.shape && port.shape->size() == 2 ? (*port.shape)[1] : 0;
    const bool whole = manifest.suppression.has_value() && count > 0 &&
                       count < static_cast<std::int64_t>(manifest.max_detections) &&
                       count % static_cast<std::int64_t>(manifest.classes.size()) == 0;
    if (!whole) {
      size("the number of detections in a picture", port, 2, 1, manifest.max_detections, 0);
    }
  }

  /// One axis of an output of `rank` axes, where it is fixed; `others` lie on it, too.
  void size(const char* what, const GraphPort& port, std::size_t rank, std::size_t axis,
            std::size_t expected, std::int64_t others) const {
    if (port.shape && port.shape->size() == rank && (*port.shape)[axis] >= 0) {
      same(what, std::to_string((*port.shape)[axis] - others), std::to_string(expected));
    }
  }

  void fits(const GraphPort& port, const Words& dtypes, const Shape& shape) const {
    bool fitting = !port.shape || port.shape->size() == shape.size();
    for (std::size_t axis = 0; fitting && port.shape && axis < shape.size(); ++axis) {
      const auto side = (*port.shape)[axis];
      fitting = side < 0 || shape[axis] < 0 || side == shape[axis];
    }
    const bool known = std::find(dtypes.begin(), dtypes.end(), port.dtype) != dtypes.end();
    if (!fitting || (!port.dtype.empty() && !known)) {
      same("the input " + port.name, described(port.dtype, port.shape),
           described(dtypes.front(), shape));
    }
  }

  void lists(const std::string& what, const Words& found, const Words& expected) const {
    const auto at = [](const Words& words, std::size_t place) {
      return place < words.size() ? words[place] : "none";
    };
    for (std::size_t place = 0; place < std::max(found.size(), expected.size()); ++place) {
      same("the piece's " + what + " " + std::to_string(place), at(found, place),
           at(expected, place));
    }
  }

  /// An entry of the metadata, an object in JSON; none where there is none.
  std::optional<Json> entry(const Metadata& metadata, const char* key) const {
    const auto found = metadata.find(key);
    if (found == metadata.end()) {
      return std::nullopt;
    }
    try {
      auto content = parse_json(found->second);
      if (std::holds_alternative<JsonMembers>(content.value)) {
        return content;
      }
    } catch (const std::invalid_argument&) {
      // as what is JSON, and no object
    }
    damaged(key);
  }

  [[noreturn]] void damaged(const char* key) const {
    throw BundleError(name_ + " is damaged: its entry " + key +
                      " is not what this project writes there: " + remedy_);
  }

  std::string name_;
  std::string kind_;
  std::string remedy_;
};

/// The tensor of the flow that a piece's input is fed with.
std::string fed_with(const StagePiece& piece, const std::string& input) {
  for (const auto& [name, tensor] : piece.reads) {
    if (name == input) {
      return tensor;
    }
  }
  return input;
}

/// The raw outputs of a graph that are not among its outputs, as if they were.
void add_hidden(GraphPorts& ports, const OnnxFile& file, const Names& raw) {
  for (const auto& [name, tensor] : raw) {
    const auto found = file.tensors.find(tensor);
    const auto output = "raw_" + name;
    if (found != file.tensors.end() &&
        std::none_of(file.outputs.begin(), file.outputs.end(),
                     [&](const GraphPort& port) { return port.name == output; })) {
      ports.outputs.push_back({output, found->second.dtype, found->second.shape});
    }
  }
}

void check_graph(const std::filesystem::path& path, const OnnxFile& file, const Artifact& artifact,
                 const Manifest& manifest) {
  const Check check(path.string(), "graph", "export it again");
  const auto& metadata = file.metadata;
  constexpr std::size_t kDigits = 12;
  if (const auto source = metadata.find(kSource); source != metadata.end()) {
    check.same("the checkpoint", first_letters(source->second, kDigits),
               manifest.source_sha256.substr(0, kDigits));
  }
  if (artifact.piece) {
    check.piece(metadata, *artifact.piece);
  } else if (artifact.depth) {
    const auto depth = metadata.find(kDepthOf);
    check.same("the depth", depth == metadata.end() ? *artifact.depth : depth->second,
               *artifact.depth);
  } else {
    check.table(metadata, manifest.table.rows());
  }
  const auto raw = check.raw_outputs(metadata);
  GraphPorts ports{file.inputs, file.outputs};
  if (artifact.piece) {
    for (auto& port : ports.inputs) {
      port.name = fed_with(*artifact.piece, port.name);
    }
  } else {
    check.names(ports, artifact, manifest);
  }
  add_hidden(ports, file, raw);
  check.shapes(ports, manifest);
}

}  // namespace

std::filesystem::path graph_file(const Bundle& bundle, const Artifact& artifact, bool check) {
  auto path = bundle.file(artifact, check);
  if (artifact.format == "onnx") {
    check_graph(path, read_onnx_file(path), artifact, bundle.manifest());
  }
  return path;
}

void check_engine(const std::string& name, const Engine& engine, const Artifact& artifact,
                  const Manifest& manifest) {
  if (const auto ports = engine.ports()) {
    const Check check(name, "engine", "build it again");
    check.names(*ports, artifact, manifest);
    check.shapes(*ports, manifest);
  }
}

}  // namespace anydepth
