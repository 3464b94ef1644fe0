#include <algorithm>
#include <chrono>
#include <cstdint>
#include <utility>

#include "anydepth/bundle.hpp"
#include "anydepth/depth.hpp"
#include "anydepth/errors.hpp"
#include "anydepth/image.hpp"
#include "anydepth/log.hpp"
#include "anydepth/manifest.hpp"
#include "chain.hpp"
#include "choose.hpp"
#include "probe.hpp"
#include "measured.hpp"
#include "processors.hpp"
#include "sha256.hpp"
#include "suppression.hpp"

namespace probe {
namespace {

using anydepth::Manifest;

template <typename Value>
Json or_null(const std::optional<Value>& value) {
  return value ? Json(*value) : Json(nullptr);
}

// --- depths

anydepth::DepthTable table_of(const Json& given) {
  std::vector<anydepth::Gate> gates;
  for (const auto& gate : given.at("gates")) {
    gates.push_back({gate.at(0), gate.at(1), gate.at(2)});
  }
  return {std::move(gates), given.at("base").get<std::vector<int>>(),
          given.at("ladder").get<std::vector<std::string>>()};
}

Json texts(const std::vector<anydepth::Depth>& depths) {
  Json found = Json::array();
  for (const auto& depth : depths) {
    found.push_back(depth.text);
  }
  return found;
}

/// Errors of one name among many are answers like others.
Json rows_of(const anydepth::DepthTable& table, const Json& names) {
  Json found = Json::array();
  for (const auto& name : names) {
    try {
      const anydepth::DepthName depth = name.is_string()
                                            ? anydepth::DepthName(name.get<std::string>())
                                            : anydepth::DepthName(name.get<std::int64_t>());
      found.push_back(table.row(depth));
    } catch (const anydepth::DepthError& error) {
      found.push_back(error.what());
    }
  }
  return found;
}

Json table(const Json& given) {
  const auto made = table_of(given);
  Json settings = Json::array();
  for (const auto& depth : made.rows()) {
    settings.push_back(depth.settings);
  }
  return {
      {"rows", texts(made.rows())}, {"settings", settings},
      {"levels", made.levels()},    {"super", made.super().text},
      {"base", made.base().text},   {"found", rows_of(made, given.value("names", Json::array()))}};
}

// --- manifests and artifacts

Json piece(const anydepth::StagePiece& spec) {
  Json when = Json::array();
  for (const auto& condition : spec.when) {
    when.push_back({condition.gate, condition.layer, condition.runs});
  }
  return {{"order", spec.order},     {"total", spec.total}, {"stage", spec.stage},
          {"variant", spec.variant}, {"when", when},        {"reads", spec.reads},
          {"writes", spec.writes}};
}

Json artifact(const anydepth::Artifact& item) {
  Json engine = nullptr;
  if (item.engine) {
    engine = {
        {"source", item.engine->source},
        {"version", item.engine->version},
        {"device", or_null(item.engine->device)},
        {"capabilities", item.engine->capabilities},
        {"batch",
         {item.engine->smallest_batch, item.engine->typical_batch, item.engine->largest_batch}},
        {"detections", item.engine->detections}};
  }
  Json verified = nullptr;
  if (item.verified) {
    verified = {{"when", item.verified->when},
                {"passed", item.verified->passed},
                {"reference", item.verified->reference}};
  }
  return {{"name", item.name},
          {"file", item.file},
          {"format", item.format},
          {"layout", item.layout},
          {"precision", item.precision},
          {"weights", item.weights},
          {"deformable", item.deformable.empty() ? Json(nullptr) : Json(item.deformable)},
          {"target", or_null(item.target)},
          {"piece", item.piece ? piece(*item.piece) : Json(nullptr)},
          {"engine", engine},
          {"verified", verified},
          {"depth", or_null(item.depth)},
          {"row", or_null(item.row)},
          {"raw", item.raw},
          {"bytes", item.bytes},
          {"sha256", item.sha256}};
}

Json preprocess(const anydepth::Preprocess& recipe) {
  return {
      {"size", {recipe.height, recipe.width}},
      {"resize", recipe.resize == anydepth::Preprocess::Resize::kStretch ? "stretch" : "letterbox"},
      {"antialias", recipe.antialias},
      {"padding", recipe.padding},
      {"scale", recipe.scale},
      {"mean", recipe.mean},
      {"std", recipe.std}};
}

Json measured(const anydepth::MeasuredLadder& item) {
  Json rungs = Json::array();
  for (const auto& rung : item.rungs) {
    rungs.push_back(
        {rung.depth, rung.milliseconds, or_null(rung.p95), or_null(rung.p99), rung.score});
  }
  return {{"when", item.when},
          {"device", item.device},
          {"runtime", item.runtime},
          {"precision", item.precision},
          {"layout", item.layout},
          {"artifacts", item.artifacts},
          {"batch", item.batch},
          {"threads", or_null(item.threads)},
          {"calls", item.calls},
          {"data", {item.measure, item.data, item.data_sha256, item.pictures}},
          {"error", or_null(item.error)},
          {"rungs", rungs}};
}

Json manifest(const Json& given) {
  const Manifest found = anydepth::read_manifest(given.at("folder").get<std::string>());
  Json gates = Json::array();
  for (const auto& gate : found.table.gates()) {
    gates.push_back({gate.name, gate.group, gate.layers});
  }
  Json suppression = nullptr;
  if (found.suppression) {
    const char* words[] = {"graph", "host", "none"};
    suppression = {{"where", words[static_cast<int>(found.suppression->where)]},
                   {"score_threshold", found.suppression->score_threshold},
                   {"iou_threshold", found.suppression->iou_threshold}};
  }
  Json artifacts = Json::array();
  for (const auto& item : found.artifacts) {
    artifacts.push_back(artifact(item));
  }
  Json ladders = Json::array();
  for (const auto& item : found.measured) {
    ladders.push_back(measured(item));
  }
  return {{"tool_version", found.tool_version},
          {"source_file", found.source_file},
          {"source_sha256", found.source_sha256},
          {"family", found.family},
          {"config", found.config},
          {"classes", found.classes},
          {"preprocess", preprocess(found.preprocess)},
          {"gates", gates},
          {"rows", texts(found.table.rows())},
          {"levels", found.table.levels()},
          {"ladder", found.table.ladder()},
          {"measured", ladders},
          {"macs", found.macs},
          {"raw_outputs", found.raw_outputs},
          {"suppression", suppression},
          {"max_detections", found.max_detections},
          {"artifacts", artifacts}};
}

const anydepth::Artifact& named(const Manifest& found, const std::string& name) {
  const auto item = std::find_if(found.artifacts.begin(), found.artifacts.end(),
                                 [&](const auto& artifact) { return artifact.name == name; });
  if (item == found.artifacts.end()) {
    throw std::runtime_error("no artifact " + name);
  }
  return *item;
}

Json file(const Json& given) {
  const auto bundle = anydepth::Bundle::open(given.at("folder").get<std::string>());
  return bundle.file(named(bundle.manifest(), given.at("artifact")), given.value("check", true))
      .string();
}

Json processor_name(const Json& given) {
  return anydepth::processor_name(given.at("root").get<std::string>());
}

/// The newest ladder that holds here for the artifacts of these names, null for none, and those of
/// other devices.
Json find_measured(const Json& given) {
  const Manifest found = anydepth::read_manifest(given.at("folder").get<std::string>());
  std::vector<anydepth::Artifact> chosen;
  for (const std::string name : given.at("artifacts")) {
    chosen.push_back(named(found, name));
  }
  const auto ladders = anydepth::find_measured(found, chosen, session_options(given));
  Json elsewhere = Json::array();
  for (const auto& item : ladders.elsewhere) {
    elsewhere.push_back(measured(item));
  }
  return {ladders.here ? measured(*ladders.here) : Json(nullptr), elsewhere};
}

/// Per options of `choices` the names of what is chosen, or class and text of what is wrong.
/// `device`: the capability of the device at hand.
Json choose(const Json& given) {
  const std::string folder = given.at("folder");
  const Manifest found = anydepth::read_manifest(folder);
  const auto device = [&](const std::string&) { return given.at("device").get<std::string>(); };
  Json answers = Json::array();
  for (const auto& choice : given.at("choices")) {
    Json names = Json::array();
    try {
      for (const auto& item :
           anydepth::choose_artifacts(found, folder, session_options(choice), device)) {
        names.push_back(item.name);
      }
    } catch (const anydepth::UsageError& error) {
      names = {"UsageError", error.what()};
    } catch (const anydepth::BundleError& error) {
      names = {"BundleError", error.what()};
    }
    answers.push_back(names);
  }
  return answers;
}

/// What a manifest is warned of.
Json warnings(const Json& given) {
  Json heard = Json::array();
  anydepth::on_warning([&](const std::string& message) { heard.push_back(message); });
  try {
    anydepth::read_manifest(given.at("folder").get<std::string>());
  } catch (...) {
    anydepth::on_warning({});
    throw;
  }
  anydepth::on_warning({});
  return heard;
}

Json class_name(const Json& given) {
  return anydepth::Bundle::open(given.at("folder").get<std::string>())
      .class_name(given.at("label").get<std::int64_t>());
}

Json trust(const Json& given) {
  const Manifest found = anydepth::read_manifest(given.at("folder").get<std::string>());
  Json warnings = Json::array();
  anydepth::on_warning([&](const std::string& message) { warnings.push_back(message); });
  try {
    anydepth::check_trust(found.artifacts);
  } catch (...) {
    anydepth::on_warning({});
    throw;
  }
  anydepth::on_warning({});
  return warnings;
}

// --- pictures

anydepth::Preprocess recipe_of(const Json& given) {
  anydepth::Preprocess recipe;
  recipe.height = given.at("size").at(0);
  recipe.width = given.at("size").at(1);
  recipe.resize = given.at("resize") == "letterbox" ? anydepth::Preprocess::Resize::kLetterbox
                                                    : anydepth::Preprocess::Resize::kStretch;
  recipe.antialias = given.at("antialias");
  recipe.padding = given.at("padding");
  recipe.scale = given.at("scale");
  recipe.mean = given.at("mean");
  recipe.std = given.at("std");
  return recipe;
}

Json geometry(const anydepth::Geometry& found) {
  return {{"scale", found.scale}, {"offset", found.offset}, {"size", {found.height, found.width}}};
}

/// Pictures, each with its height, width and stride (0: none), one behind the other in the file
/// `pixels`; prepared into the file `out`. With `repeat`, also the shortest time in seconds.
Json prepare(const Json& given) {
  const auto pixels = read_array<std::uint8_t>(given.at("pixels"));
  const auto recipe = recipe_of(given.at("recipe"));
  std::vector<std::vector<std::uint8_t>> owned;  // each its own, so that what reads past is seen
  std::vector<anydepth::ImageView> images;
  std::size_t at = 0;
  for (const auto& shape : given.at("shapes")) {
    const std::size_t height = shape.at(0);
    const std::size_t width = shape.at(1);
    const std::size_t stride = shape.at(2);
    const std::size_t line = stride != 0 ? stride : 3 * width;
    const std::size_t size = height == 0 ? 0 : line * (height - 1) + 3 * width;
    owned.emplace_back(
        pixels.begin() + static_cast<std::ptrdiff_t>(at),
        pixels.begin() + static_cast<std::ptrdiff_t>(std::min(at + size, pixels.size())));
    at += line * height;
    images.push_back({owned.back().data(), height, width, stride});
  }
  anydepth::Batch batch;
  double best = 1e9;
  for (int turn = 0; turn < given.value("repeat", 1); ++turn) {
    const auto start = std::chrono::steady_clock::now();
    batch = anydepth::prepare_batch(images, recipe,
                                    given.value("max_pixels", anydepth::kMaxPixels));
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    best = std::min(best, took.count());
  }
  write_array(given.at("out"), batch.images);
  Json geometries = Json::array();
  for (const auto& item : batch.geometries) {
    geometries.push_back(geometry(item));
  }
  return {{"geometries", geometries}, {"seconds", best}};
}

Json to_picture(const Json& given) {
  auto boxes = read_array<float>(given.at("boxes"));
  anydepth::Geometry way;
  way.scale = given.at("scale");
  way.offset = given.at("offset");
  way.height = given.at("size").at(0);
  way.width = given.at("size").at(1);
  way.to_picture(boxes.data(), boxes.size() / 4);
  write_array(given.at("out"), boxes);
  return nullptr;
}

// --- detections

/// Files `out`.labels, .boxes and .scores.
Json suppress(const Json& given) {
  const auto values = read_array<float>(given.at("predictions"));
  anydepth::TensorView view;
  view.data = values.data();
  view.shape = given.at("shape").get<std::vector<std::int64_t>>();
  anydepth::Suppression rule;
  rule.score_threshold = given.at("score");
  rule.iou_threshold = given.at("iou");
  const auto found = anydepth::suppress(view, rule, given.at("max_detections"));
  const std::string out = given.at("out");
  write_array(out + ".labels", found.labels);
  write_array(out + ".boxes", found.boxes);
  write_array(out + ".scores", found.scores);
  Json images = Json::array();
  for (std::size_t index = 0; index < found.batch; ++index) {
    images.push_back(found.image(index, given.value("threshold", 0.0F)).size());
  }
  return {{"batch", found.batch}, {"places", found.places}, {"images", images}};
}

Json outside(const Json&) { return anydepth::Detections{}.image(0).size(); }

// --- chains

anydepth::StagePiece piece_of(const Json& given) {
  anydepth::StagePiece found;
  found.order = given.at("order");
  found.total = given.at("total");
  for (const auto& condition : given.at("when")) {
    found.when.push_back({condition.at(0), condition.at(1), condition.at(2)});
  }
  for (const auto& [name, tensor] : given.at("reads").items()) {
    found.reads.emplace_back(name, tensor);
  }
  for (const auto& [name, tensor] : given.at("writes").items()) {
    found.writes.emplace_back(name, tensor);
  }
  return found;
}

/// `pieces`: [name, piece]. Per depth of `settings` the plan, or what is wrong with it.
Json chain(const Json& given) {
  std::vector<std::pair<std::string, anydepth::StagePiece>> pieces;
  for (const auto& item : given.at("pieces")) {
    pieces.emplace_back(item.at(0), piece_of(item.at(1)));
  }
  const anydepth::Chain made(std::move(pieces));
  Json plans = Json::array();
  for (const auto& setting : given.at("depths")) {
    const anydepth::Depth depth{setting.at(1), setting.at(0)};
    try {
      const auto running = made.at(depth);
      Json plan{{"running", running}, {"tensors", made.tensors(running)}};
      Json steps = Json::array();
      for (const auto& step : made.steps(running, given.value("outputs", made.ends()))) {
        steps.push_back({{"piece", step.piece},
                         {"reads", step.reads},
                         {"writes", step.writes},
                         {"live", step.live}});
      }
      plan["steps"] = steps;
      plans.push_back(plan);
    } catch (const anydepth::Error& error) {
      plans.push_back(error.what());
    }
  }
  return {{"ends", made.ends()}, {"plans", plans}};
}

Json check_piece(const Json& given) {
  anydepth::check_piece(given.at("name"), piece_of(given.at("piece")), given.at("inputs"),
                        given.at("outputs"));
  return nullptr;
}

// --- the rest

/// `cuts`: lengths of the parts that the digest is given.
Json sha256(const Json& given) {
  const auto bytes = read_bytes(given.at("file"));
  anydepth::Sha256 digest;
  std::size_t at = 0;
  for (const std::size_t size : given.at("cuts").get<std::vector<std::size_t>>()) {
    digest.update(bytes.data() + at, size);
    at += size;
  }
  digest.update(bytes.data() + at, bytes.size() - at);
  return {digest.finish(), anydepth::file_sha256(given.at("file").get<std::string>())};
}

Json shorten(const Json& given) {
  return anydepth::shorten(given.at("items"), given.value("limit", std::size_t{6}));
}

Json limited_threads(const Json& given) {
  const auto found =
      given.contains("root")
          ? anydepth::limited_threads(given.at("root").get<std::string>(),
                                      given.at("allowed").get<std::vector<int>>())
          : anydepth::limited_threads();
  return found ? Json(*found) : Json();
}

}  // namespace

void add_core(Calls& calls) {
  calls["table"] = table;
  calls["manifest"] = manifest;
  calls["warnings"] = warnings;
  calls["class_name"] = class_name;
  calls["file"] = file;
  calls["processor_name"] = processor_name;
  calls["find_measured"] = find_measured;
  calls["limited_threads"] = limited_threads;
  calls["choose"] = choose;
  calls["trust"] = trust;
  calls["prepare"] = prepare;
  calls["to_picture"] = to_picture;
  calls["suppress"] = suppress;
  calls["outside"] = outside;
  calls["chain"] = chain;
  calls["check_piece"] = check_piece;
  calls["sha256"] = sha256;
  calls["shorten"] = shorten;
}

}  // namespace probe
