#include "manifest_fields.hpp"

#include <array>
#include <limits>
#include <utility>

#include "manifest_version.hpp"

namespace anydepth {
namespace {

constexpr std::int64_t kMostInt = std::numeric_limits<int>::max();
constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();
/// Of the network's input; limits the memory that a made-up manifest can cost.
constexpr std::int64_t kMostSide = 16384;
constexpr std::int64_t kMostPixels = std::int64_t{1} << 26U;
constexpr std::int64_t kMostOpset = 1000;
constexpr std::int64_t kMostBatch = 65536;
constexpr std::int64_t kMostDetections = 1'000'000;
/// Gates have to be counted to make a table of depths.
constexpr std::size_t kMostGates = 1000;

int small(const JsonValue& value, std::int64_t low = 0) {
  return static_cast<int>(value.integer(low, kMostInt));
}

std::optional<std::string> maybe_text(const std::optional<JsonValue>& value) {
  return value ? std::optional<std::string>(value->text()) : std::nullopt;
}

Names names(const JsonValue& value) {
  Names found;
  for (const auto& [key, item] : value.members()) {
    found.emplace_back(key, item.text());
  }
  return found;
}

/// Bytes, multiply-adds, pictures: what any program can hold.
std::int64_t count(const JsonValue& value) { return value.integer(0, kMost); }

std::int64_t opset(const JsonValue& value) { return value.integer(1, kMostOpset); }

std::size_t batch_size(const JsonValue& value) {
  return static_cast<std::size_t>(value.integer(1, kMostBatch));
}

/// What cannot be below nothing.
double ratio(const JsonValue& value) {
  const double found = value.number();
  if (found < 0) {
    value.refuse("Input should be greater than or equal to 0");
  }
  return found;
}

/// A factor or a divisor that float can hold, and whose reciprocal it can hold, too.
double factor(const JsonValue& value) {
  const double found = value.number();
  if (!(found >= 1e-6 && found <= 1e6)) {
    value.refuse("Input should be from 0.000001 to 1000000");
  }
  return found;
}

double offset(const JsonValue& value) {
  const double found = value.number();
  if (!(found >= -1e6 && found <= 1e6)) {
    value.refuse("Input should be from -1000000 to 1000000");
  }
  return found;
}

std::vector<JsonValue> at_most(const JsonValue& value, std::size_t most) {
  auto items = value.items();
  if (items.size() > most) {
    value.refuse("List should have at most " + std::to_string(most) +
                 " items after validation, not " + std::to_string(items.size()));
  }
  return items;
}

/// Each of exactly `Count` items as `read` understands it.
template <std::size_t Count, typename Read>
auto each(const JsonValue& value, Read read) {
  const auto items = at_most(value, Count);
  std::array<decltype(read(value)), Count> found{};
  for (std::size_t index = 0; index < Count; ++index) {
    if (index >= items.size()) {
      value.refuse(std::to_string(index), "Field required");
    }
    found[index] = read(items[index]);
  }
  return found;
}

std::vector<std::string> at_least_one(const JsonValue& value) {
  auto texts = value.texts();
  if (texts.empty()) {
    value.refuse("List should have at least 1 item after validation, not 0");
  }
  return texts;
}

std::size_t side(const JsonValue& value) {
  return static_cast<std::size_t>(value.integer(1, kMostSide));
}

Preprocess read_preprocess(const JsonValue& value) {
  JsonObject object(value);
  Preprocess found;
  const JsonValue size = object.required("size");
  const auto sides = each<2>(size, side);
  found.height = sides[0];
  found.width = sides[1];
  if (found.height * found.width > static_cast<std::size_t>(kMostPixels)) {
    size.refuse("an input of " + std::to_string(found.height) + " x " +
                std::to_string(found.width) + " has more than " + std::to_string(kMostPixels) +
                " pixels");
  }
  if (const auto resize = object.optional("resize")) {
    found.resize = resize->choice({"stretch", "letterbox"}) == "letterbox"
                       ? Preprocess::Resize::kLetterbox
                       : Preprocess::Resize::kStretch;
  }
  if (const auto interpolation = object.optional("interpolation")) {
    interpolation->choice({"bilinear"});
  }
  if (const auto antialias = object.optional("antialias")) {
    found.antialias = antialias->flag();
  }
  if (const auto padding = object.optional("padding")) {
    found.padding = static_cast<std::uint8_t>(padding->integer(0, 255));
  }
  if (const auto channels = object.optional("channels")) {
    channels->choice({"RGB"});
  }
  if (const auto scale = object.optional("scale")) {
    found.scale = factor(*scale);
  }
  if (const auto mean = object.optional("mean")) {
    found.mean = each<3>(*mean, offset);
  }
  if (const auto deviation = object.optional("std")) {
    found.std = each<3>(*deviation, factor);
  }
  if (const auto layout = object.optional("layout")) {
    layout->choice({"NCHW"});
  }
  object.finish();
  return found;
}

Suppression read_suppression(const JsonValue& value) {
  JsonObject object(value);
  Suppression found;
  if (const auto where = object.optional("where")) {
    const std::string word = where->choice({"graph", "host", "none"});
    found.where = word == "graph"  ? Suppression::Where::kGraph
                  : word == "host" ? Suppression::Where::kHost
                                   : Suppression::Where::kNone;
  }
  if (const auto score = object.optional("score_threshold")) {
    found.score_threshold = ratio(*score);
    if (found.score_threshold >= 1) {
      score->refuse("Input should be less than 1");
    }
  }
  if (const auto overlap = object.optional("iou_threshold")) {
    found.iou_threshold = overlap->number();
    if (found.iou_threshold <= 0) {
      overlap->refuse("Input should be greater than 0");
    }
    if (found.iou_threshold > 1) {
      overlap->refuse("Input should be less than or equal to 1");
    }
  }
  object.finish();
  return found;
}

Gate read_gate(const JsonValue& value) {
  JsonObject object(value);
  Gate found;
  found.name = object.required("name").text();
  found.group = small(object.required("group"));
  if (const auto layers = object.optional("layers")) {
    found.layers = static_cast<int>(layers->integer(0, 999));
  }
  object.finish();
  return found;
}

DepthRow read_row(const JsonValue& value) {
  JsonObject object(value);
  DepthRow found;
  found.index = count(object.required("index"));
  found.depth = object.required("depth").text();
  if (const auto level = object.required_nullable("level")) {
    found.level = count(*level);
  }
  for (const auto& [part, macs] : object.required("macs").members()) {
    const std::int64_t number = count(macs);
    if (part == "total") {
      found.macs = number;
    }
  }
  if (const auto executed = object.nullable("macs_executed")) {
    count(*executed);
  }
  object.finish();
  return found;
}

StagePiece read_piece(const JsonValue& value) {
  JsonObject object(value);
  StagePiece found;
  found.order = small(object.required("order"));
  found.total = small(object.required("total"), 1);
  found.stage = object.required("stage").text();
  found.variant = object.required("variant").text();
  if (const auto when = object.optional("when")) {
    for (const auto& item : when->items()) {
      JsonObject condition(item);
      Condition asked;
      asked.gate = static_cast<std::size_t>(small(condition.required("gate")));
      if (const auto layer = condition.optional("layer")) {
        asked.layer = small(*layer);
      }
      asked.runs = condition.required("runs").flag();
      condition.finish();
      found.when.push_back(asked);
    }
  }
  found.reads = names(object.required("reads"));
  found.writes = names(object.required("writes"));
  object.finish();
  return found;
}

EngineSpec read_engine(const JsonValue& value) {
  JsonObject object(value);
  EngineSpec found;
  found.source = object.required("source").text();
  object.required("source_sha256").digest();
  found.version = object.required("version").text();
  found.device = maybe_text(object.nullable("device"));
  found.capabilities = at_least_one(object.required("capabilities"));
  const JsonValue batch = object.required("batch");
  JsonObject sizes(batch);
  found.smallest_batch = batch_size(sizes.required("smallest"));
  found.typical_batch = batch_size(sizes.required("typical"));
  found.largest_batch = batch_size(sizes.required("largest"));
  sizes.finish();
  if (found.smallest_batch > found.typical_batch || found.typical_batch > found.largest_batch) {
    batch.refuse("batch sizes " + std::to_string(found.smallest_batch) + ", " +
                 std::to_string(found.typical_batch) + ", " + std::to_string(found.largest_batch) +
                 " do not rise");
  }
  if (const auto workspace = object.nullable("workspace")) {
    count(*workspace);
  }
  opset(object.required("opset"));
  if (const auto detections = object.optional("detections")) {
    found.detections = detections->flag();
  }
  if (const auto layers = object.optional("layers")) {
    for (const auto& [type, number] : layers->members()) {
      count(number);
    }
  }
  object.finish();
  return found;
}

Verification read_verification(const JsonValue& value) {
  JsonObject object(value);
  Verification found;
  found.when = object.required("when").text();
  found.passed = object.required("passed").flag();
  found.reference = object.required("reference").text();
  object.required("device").text();
  count(object.required("depths"));
  for (const auto& size : object.required("batches").items()) {
    batch_size(size);
  }
  object.finish();
  return found;
}

/// What an INT8 graph was made for.
std::string read_quantisation(const JsonValue& value) {
  JsonObject object(value);
  std::string target = object.required("target").choice({"onnxruntime", "tensorrt", "openvino"});
  JsonObject table(object.required("calibration"));
  table.required("file").text();
  table.required("sha256").digest();
  table.required("method").text();
  count(table.required("pictures"));
  if (const auto depths = table.nullable("depths")) {
    depths->texts();
  }
  table.finish();
  ratio(object.required("max_ratio"));
  ratio(object.required("max_error"));
  for (const char* list : {"keep", "quantise"}) {
    if (const auto nodes = object.optional(list)) {
      nodes->texts();
    }
  }
  object.finish();
  return target;
}

void check_kept(const JsonValue& value) {
  JsonObject object(value);
  object.required("node").text();
  object.required("op").text();
  object.required("reason").text();
  object.finish();
}

/// A name in the bundle's folder, never a path.
std::string read_file_name(const JsonValue& value) {
  static const std::string letters =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_";
  std::string name = value.text();
  const bool valid = !name.empty() && letters.find(name.front()) != std::string::npos &&
                     name.find_first_not_of(letters + ".-") == std::string::npos;
  if (!valid) {
    value.refuse("String should match pattern '^[A-Za-z0-9_][A-Za-z0-9_.-]*$'");
  }
  return name;
}

ArtifactFields read_artifact(const JsonValue& value) {
  JsonObject object(value);
  ArtifactFields fields;
  Artifact& found = fields.artifact;
  found.name = object.required("name").text();
  found.file = read_file_name(object.required("file"));
  const auto format = object.optional("format");
  found.format = format ? format->choice({"onnx", "tensorrt", "tensorrt-rtx"}) : "onnx";
  found.layout = object.required("layout").choice({"gated", "set", "stages"});
  const auto precision = object.optional("precision");
  found.precision = precision ? precision->choice({"fp32", "fp16", "int8"}) : "fp32";
  if (const auto scheme = object.nullable("quantisation")) {
    found.target = read_quantisation(*scheme);
  }
  if (const auto quantised = object.optional("quantised")) {
    count(*quantised);
  }
  if (const auto kept = object.optional("kept")) {
    for (const auto& item : kept->items()) {
      check_kept(item);
    }
  }
  found.weights = object.required("weights").choice({"shared", "folded"});
  if (const auto deformable = object.nullable("deformable")) {
    found.deformable = deformable->choice({"gridsample", "gather"});
  }
  found.depth = maybe_text(object.nullable("depth"));
  if (const auto piece = object.nullable("piece")) {
    found.piece = read_piece(*piece);
  }
  if (const auto engine = object.nullable("engine")) {
    found.engine = read_engine(*engine);
  }
  if (const auto verified = object.nullable("verified")) {
    found.verified = read_verification(*verified);
  }
  if (const auto row = object.nullable("row")) {
    fields.row = count(*row);
  }
  if (const auto level = object.nullable("level")) {
    count(*level);
  }
  if (const auto raw = object.optional("raw")) {
    found.raw = raw->flag();
  }
  opset(object.required("opset"));
  found.bytes = static_cast<std::uint64_t>(count(object.required("bytes")));
  found.sha256 = object.required("sha256").digest();
  names(object.required("built_with"));
  ratio(object.required("build_seconds"));
  object.finish();
  return fields;
}

MeasuredRung read_rung(const JsonValue& value) {
  JsonObject object(value);
  MeasuredRung found;
  found.depth = object.required("depth").text();
  found.milliseconds = ratio(object.required("milliseconds"));
  if (const auto p95 = object.nullable("p95")) {
    found.p95 = ratio(*p95);
  }
  if (const auto p99 = object.nullable("p99")) {
    found.p99 = ratio(*p99);
  }
  const JsonValue score = object.required("score");
  found.score = score.number();
  if (found.score < -1) {
    score.refuse("Input should be greater than or equal to -1");
  }
  if (found.score > 100) {
    score.refuse("Input should be less than or equal to 100");
  }
  object.finish();
  return found;
}

std::vector<JsonValue> some(const JsonValue& value) {
  auto items = value.items();
  if (items.empty()) {
    value.refuse("List should have at least 1 item after validation, not 0");
  }
  return items;
}

MeasuredLadder read_measured(const JsonValue& value) {
  JsonObject object(value);
  MeasuredLadder found;
  found.when = object.required("when").text();
  found.device = object.required("device").text();
  found.runtime = object.required("runtime").text();
  found.precision = object.required("precision").choice({"fp32", "fp16", "int8", "bf16"});
  found.layout = object.required("layout").choice({"gated", "set", "stages"});
  for (const auto& item : some(object.required("artifacts"))) {
    found.artifacts.push_back(item.digest());
  }
  found.batch = batch_size(object.required("batch"));
  if (const auto threads = object.nullable("threads")) {
    found.threads = small(*threads, 1);
  }
  found.calls = static_cast<std::uint64_t>(count(object.required("calls")));
  JsonObject data(object.required("data"));
  found.measure = data.required("kind").choice({"ap", "agreement"});
  found.data = data.required("name").text();
  found.data_sha256 = data.required("sha256").digest();
  found.pictures = static_cast<std::uint64_t>(count(data.required("pictures")));
  data.finish();
  names(object.required("versions"));
  if (const auto error = object.nullable("error")) {
    found.error = ratio(*error);
  }
  for (const auto& item : some(object.required("rungs"))) {
    found.rungs.push_back(read_rung(item));
  }
  object.finish();
  return found;
}

void check_golden(const JsonValue& value) {
  JsonObject object(value);
  read_file_name(object.required("file"));
  count(object.required("bytes"));
  object.required("sha256").digest();
  count(object.required("pictures"));
  at_least_one(object.required("depths"));
  object.finish();
}

void check_results(const JsonValue& value) {
  for (const auto& [kind, records] : value.members()) {
    for (const auto& record : records.items()) {
      record.members();
    }
  }
}

}  // namespace

ManifestFields read_fields(const Json& manifest, std::vector<std::string>* unknown) {
  const JsonValue top(manifest, unknown);
  JsonObject object(top);
  ManifestFields found;
  if (const auto format = object.optional("format")) {
    format->choice({"anydepth-deploy bundle"});
  }
  if (const auto version = object.optional("version")) {
    const auto found_version = version_of(version->json());
    if (!found_version || found_version->major != kKnownVersion.major) {
      const std::string major = std::to_string(kKnownVersion.major);
      version->refuse("Input should be " + major + ", or text like '" + major + ".1'");
    }
  }
  found.tool_version = object.required("tool_version").text();
  object.required("created").text();
  JsonObject source(object.required("source"));
  found.source_file = source.required("file").text();
  found.source_sha256 = source.required("sha256").digest();
  count(source.required("bytes"));
  source.required("weights").text();
  source.finish();
  found.family = object.required("family").text();
  found.config = object.required("config").text();
  count(object.required("parameters"));
  found.classes = at_least_one(object.required("classes"));
  found.preprocess = read_preprocess(object.required("preprocess"));
  for (const auto& gate : at_most(object.required("gates"), kMostGates)) {
    found.gates.push_back(read_gate(gate));
  }
  for (const auto& setting : object.required("base").items()) {
    found.base.push_back(small(setting));
  }
  found.ladder = object.required("ladder").texts();
  for (const auto& row : object.required("depths").items()) {
    found.depths.push_back(read_row(row));
  }
  found.raw_outputs = names(object.required("raw_outputs"));
  if (const auto suppression = object.nullable("suppression")) {
    found.suppression = read_suppression(*suppression);
  }
  found.max_detections =
      static_cast<std::size_t>(object.required("max_detections").integer(1, kMostDetections));
  if (const auto artifacts = object.optional("artifacts")) {
    for (const auto& artifact : artifacts->items()) {
      found.artifacts.push_back(read_artifact(artifact));
    }
  }
  if (const auto results = object.optional("results")) {
    check_results(*results);
  }
  if (const auto said = object.optional("said")) {
    names(*said);
  }
  if (const auto measured = object.optional("measured")) {
    for (const auto& item : measured->items()) {
      found.measured.push_back(read_measured(item));
    }
  }
  maybe_text(object.nullable("name"));
  if (const auto exported = object.nullable("exported_classes")) {
    at_least_one(*exported);
  }
  if (const auto golden = object.nullable("golden")) {
    check_golden(*golden);
  }
  object.finish();
  return found;
}

}  // namespace anydepth
