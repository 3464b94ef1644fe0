#include "bench_result.hpp"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <system_error>

#include "anydepth/version.hpp"
#include "bench_host.hpp"
#include "bench_records.hpp"
#include "bench_statistics.hpp"
#include "bench_text.hpp"
#include "bench_verdict.hpp"
#include "text.hpp"

namespace bench {
namespace {

using Json = nlohmann::ordered_json;

template <typename Value>
Json or_null(const std::optional<Value>& value) {
  return value ? Json(*value) : Json(nullptr);
}

Json json_of(const Estimate& found) {
  return {{"value", found.value},
          {"low", found.interval ? Json(found.interval->first) : Json(nullptr)},
          {"high", found.interval ? Json(found.interval->second) : Json(nullptr)}};
}

Json json_of(const Latency& found) {
  Json percentiles = Json::object();
  for (const auto& [percent, value] : found.percentiles) {
    percentiles[format("%g", percent)] = or_null(value);
  }
  const auto variation = found.deviation && found.mean > 0
                             ? Json(*found.deviation / found.mean)
                             : Json(nullptr);
  return {{"count", found.count},
          {"minimum_ms", found.minimum},
          {"mean_ms", found.mean},
          {"deviation_ms", or_null(found.deviation)},
          {"variation", variation},
          {"median_ms", json_of(found.median)},
          {"maximum_ms", found.maximum},
          {"percentiles_ms", percentiles}};
}

Json json_of(const Verdict& verdict) {
  return {{"word", verdict.word}, {"reasons", verdict.reasons}};
}

std::string compiler() {
#if defined(__clang__)
  return "Clang " __clang_version__;
#elif defined(__GNUC__)
  return "GCC " __VERSION__;
#else
  return "another compiler";
#endif
}

std::vector<std::int64_t> took(const std::vector<Sample>& samples) {
  std::vector<std::int64_t> found(samples.size());
  std::transform(samples.begin(), samples.end(), found.begin(),
                 [](const Sample& sample) { return sample.ended - sample.began; });
  return found;
}

std::vector<double> as_numbers(const std::vector<std::int64_t>& values) {
  return {values.begin(), values.end()};
}

bool on_device(const Options& options) { return options.session.runtime == "tensorrt"; }

/// The steps of a request, each with whether it is timed.
Json boundaries(const Found& found) {
  const auto& scope = found.options.scope;
  const auto& rule = found.bundle.manifest().suppression;
  const auto& artifacts = found.session.artifacts();
  const bool cut = std::any_of(artifacts.begin(), artifacts.end(), [](const auto& item) {
    return item.engine && !item.engine->detections;
  });
  const auto* const pictures = scope == "pictures" ? "timed" : "not timed";
  const auto* const copies = on_device(found.options) ? "timed" : "none (host memory)";
  std::string suppression;
  if (!rule || rule->where == anydepth::Suppression::Where::kNone) {
    suppression = "none needed";
  } else if (scope == "raw") {
    suppression = "not run";
  } else if (rule->where == anydepth::Suppression::Where::kGraph && !cut) {
    suppression = "timed, in the graph";
  } else {
    suppression = "timed, on the host";
  }
  return {{"decoding of files", "not timed"},
          {"pre-processing", pictures},
          {"copies to the device", copies},
          {"network", scope == "raw" ? "timed, to its raw outputs" : "timed"},
          {"suppression", suppression},
          {"copies to the host", copies},
          {"boxes to picture pixels", pictures}};
}

Json host(const Options& options) {
  const auto& runtime = options.session.runtime;
  return {{"processor", processor()},
          {"cores", cores()},
          {"memory_bytes", or_null(total_memory())},
          {"system", system_name()},
          // There is no Python in it: what built it stands in its place.
          {"python", "none (C++, built with " + compiler() + ")"},
          {"packages",
           {{"anydepth-cpp", ANYDEPTH_VERSION}, {runtime, anydepth::runtime_version(runtime)}}}};
}

Json subject(const Found& found, const Records& records) {
  const auto& manifest = found.bundle.manifest();
  const auto& artifacts = found.session.artifacts();
  const auto& choice = found.options.session;
  Json hashes = Json::object();
  for (const auto& item : artifacts) {
    hashes[item.name] = item.sha256;
  }
  const auto folder = std::filesystem::canonical(found.bundle.path());
  return {{"kind", "bundle"},
          {"name", anydepth::readable(folder.filename().string())},
          {"source_sha256", manifest.source_sha256},
          {"family", manifest.family},
          {"config", manifest.config},
          {"input_size", {manifest.preprocess.height, manifest.preprocess.width}},
          // Nobody shall take it for a figure of the Python package.
          {"runtime", choice.runtime + "-cpp"},
          {"device", on_device(found.options) ? "cuda" : "cpu"},
          {"precision", choice.precision},
          {"layout", artifacts.front().layout},
          {"weights", artifacts.front().weights},
          {"artifacts", hashes},
          {"verified", or_null(records.last_passed())},
          {"cuda_graph", on_device(found.options) ? Json(false) : Json(nullptr)}};
}

Json settings(const Found& found) {
  const auto& options = found.options;
  std::vector<std::string> depths;
  for (const auto& depth : found.depths) {
    depths.push_back(depth.text);
  }
  return {{"scenario", "single"},
          {"mode", options.mode},
          {"depths", depths},
          {"mix", nullptr},
          {"batch", options.batch},
          {"streams", 1},
          {"threads", or_null(options.session.threads)},
          {"rate", nullptr},
          {"duration_s", options.duration},
          {"count", options.count},
          {"repeats", options.repeats},
          {"warmup_s", options.warmup},
          {"warmup_count", options.warmup_count},
          {"seed", options.seed},
          {"percentiles", options.percentiles},
          {"scope", options.scope},
          {"transfers", on_device(options) ? Json(true) : Json(nullptr)},
          {"locked_clocks", nullptr}};
}

/// The figures of each depth, from its samples.
class Depths {
 public:
  explicit Depths(const Found& found) : found_(found), samples_(found.depths.size()) {
    for (const auto& sample : found.measured.samples) {
      samples_[sample.call].push_back(sample);
    }
    const auto larger = [&](std::size_t one, std::size_t other) { return macs(one) < macs(other); };
    for (std::size_t index = 1; index < samples_.size(); ++index) {
      reference_ = larger(reference_, index) ? index : reference_;
    }
  }

  /// `accuracies`: by depth.
  Json depth(std::size_t index, const std::map<std::string, Json>& accuracies) {
    const auto& options = found_.options;
    const auto& depth = found_.depths[index];
    const auto& mine = samples_[index];
    const auto times = took(mine);
    const auto latency = summarise(times, options.percentiles);
    const auto verdict = worst({judge_latency(as_numbers(times), latency), without_sensors()});
    verdicts_.push_back({verdict.word, named(depth.text, verdict.reasons)});
    const auto level = found_.bundle.table().level(found_.bundle.table().row(depth));
    const auto accuracy = accuracies.find(depth.text);
    return {{"depth", depth.text},
            {"level", or_null(level)},
            {"macs", macs(index)},
            {"samples", columns(mine)},
            {"latency", json_of(latency)},
            {"images_per_second", images_per_second(index)},
            {"speedup", json_of(speedup(index))},
            {"switch_ms", nullptr},
            {"first_ms", static_cast<double>(found_.measured.first[index]) / 1e6},
            {"accuracy", accuracy == accuracies.end() ? Json(nullptr) : accuracy->second},
            {"energy_per_image_j", nullptr},
            {"verdict", json_of(verdict)}};
  }

  Json overall() const {
    const auto& samples = found_.measured.samples;
    double wall = 0;
    for (const auto& stretch : found_.measured.stretches) {
      wall += stretch.seconds;
    }
    const auto images = samples.size() * found_.options.batch;
    return {{"requests", samples.size()},
            {"images", images},
            {"wall_s", wall},
            {"images_per_second", wall > 0 ? static_cast<double>(images) / wall : 0.0},
            {"latency", json_of(summarise(took(samples), found_.options.percentiles))},
            {"queue_ms", nullptr},
            {"energy_per_image_j", nullptr}};
  }

  /// The worst of any depth.
  Json verdict() const {
    auto all = verdicts_;
    all.insert(all.begin(), without_sensors());
    return json_of(worst(all));
  }

 private:
  std::uint64_t macs(std::size_t index) const {
    return found_.bundle.manifest().macs[found_.bundle.table().row(found_.depths[index])];
  }

  /// What is the matter at some depths only names them.
  static std::vector<std::string> named(const std::string& depth,
                                        const std::vector<std::string>& reasons) {
    const auto common = without_sensors().reasons;
    std::vector<std::string> found;
    for (const auto& reason : reasons) {
      if (std::find(common.begin(), common.end(), reason) == common.end()) {
        found.push_back(depth + ": " + reason);
      }
    }
    return found;
  }

  Json columns(const std::vector<Sample>& samples) const {
    std::vector<std::int64_t> started;
    std::vector<std::int64_t> ended;
    std::vector<std::int64_t> rounds;
    for (const auto& sample : samples) {
      started.push_back(sample.began);
      ended.push_back(sample.ended);
      rounds.push_back(sample.round);
    }
    return {{"started_ns", started},
            {"ended_ns", ended},
            {"scheduled_ns", nullptr},
            {"rounds", found_.options.mode == "interleaved" ? Json(rounds) : Json(nullptr)},
            {"after", nullptr}};
  }

  Json images_per_second(std::size_t index) const {
    double wall = 0;
    if (found_.options.mode == "fixed") {
      for (const auto& stretch : found_.measured.stretches) {
        wall += stretch.call == index ? stretch.seconds : 0;
      }
    } else {
      for (const auto time : took(samples_[index])) {
        wall += static_cast<double>(time) / 1e9;
      }
    }
    const auto images = static_cast<double>(samples_[index].size() * found_.options.batch);
    return wall > 0 ? Json(images / wall) : Json(nullptr);
  }

  /// Of the median, against the most multiply-adds.
  Estimate speedup(std::size_t index) const {
    if (index == reference_) {
      return {1, std::nullopt};
    }
    return ratio_of_medians(as_numbers(took(samples_[reference_])),
                            as_numbers(took(samples_[index])),
                            found_.options.mode == "interleaved");
  }

  const Found& found_;
  std::vector<std::vector<Sample>> samples_;
  std::size_t reference_ = 0;
  std::vector<Verdict> verdicts_;
};

Records records_of(const anydepth::Bundle& bundle,
                   const std::vector<anydepth::Artifact>& artifacts, const Options& options) {
  return {bundle.path(), artifacts, options.session.precision, options.session.runtime};
}

/// Where a result is written before it takes its place: a name of this process alone.
std::filesystem::path beside(const std::filesystem::path& path) {
  auto name = path;
  name += "." + std::to_string(getpid()) + ".partial";
  return name;
}

/// Why the last call failed; streams do not always say.
std::error_code last_error() {
  return {errno != 0 ? errno : EIO, std::generic_category()};
}

/// The Python package says the same.
anydepth::Error unwritable(const std::filesystem::path& path, const std::error_code& reason) {
  return anydepth::Error("result " + path.string() + " cannot be written: " + reason.message() +
                         "; choose another place");
}

}  // namespace

void check_passed(const anydepth::Bundle& bundle, const std::vector<anydepth::Artifact>& artifacts,
                  const Options& options) {
  if (const auto failed = records_of(bundle, artifacts, options).failed()) {
    throw anydepth::BundleError(
        failed->first + " in bundle " + bundle.path().string() + " failed 'verify' (" +
        options.session.precision + ", " + options.session.runtime + ", " + failed->second +
        "): what computes something else is not worth timing; export or build it again and verify "
        "it");
  }
}

Json result_of(const Found& found) {
  const auto& artifacts = found.session.artifacts();
  const auto records = records_of(found.bundle, artifacts, found.options);
  Depths figures(found);
  std::vector<std::string> names;
  for (const auto& depth : found.depths) {
    names.push_back(depth.text);
  }
  const auto accuracies = records.accuracies(names);
  Json depths = Json::array();
  for (std::size_t index = 0; index < found.depths.size(); ++index) {
    depths.push_back(figures.depth(index, accuracies));
  }
  return {{"format", "anydepth-deploy bench"},
          {"version", 1},
          {"tool_version", ANYDEPTH_VERSION " (anydepth-bench)"},
          {"when", utc_now()},
          {"host", host(found.options)},
          {"subject", subject(found, records)},
          {"settings", settings(found)},
          {"boundaries", boundaries(found)},
          {"inputs",
           {{"source", found.inputs.source},
            {"count", found.inputs.count},
            {"sha256", found.inputs.sha256},
            {"seed", found.options.seed}}},
          {"devices", Json::array()},
          {"memory",
           {{"before", or_null(found.memory.before)},
            {"loaded", or_null(found.memory.loaded)},
            {"peak", or_null(peak_memory())},
            {"device", Json::object()}}},
          {"load_ms", found.load_ms},
          {"depths", depths},
          {"overall", figures.overall()},
          {"verdict", figures.verdict()}};
}

void check_place(const std::filesystem::path& path) {
  std::error_code failure;
  if (std::filesystem::is_directory(path, failure)) {
    throw unwritable(path, std::make_error_code(std::errc::is_a_directory));
  }
  const auto temporary = beside(path);
  errno = 0;
  const bool open = std::ofstream(temporary, std::ios::binary).is_open();
  const auto reason = last_error();
  std::error_code ignored;
  std::filesystem::remove(temporary, ignored);
  if (!open) {
    throw unwritable(path, reason);
  }
}

void write_result(const std::filesystem::path& path, const Json& result) {
  const auto temporary = beside(path);
  std::error_code failure;
  {
    errno = 0;
    std::ofstream file(temporary, std::ios::binary);
    const char* comma = "{";
    for (const auto& [name, value] : result.items()) {  // an entry a line
      file << comma << "\n " << Json(name).dump() << ": " << value.dump();
      comma = ",";
    }
    file << "\n}\n";
    file.close();
    if (!file) {
      failure = last_error();
    }
  }
  if (!failure) {
    std::filesystem::rename(temporary, path, failure);
  }
  if (failure) {
    std::error_code ignored;
    std::filesystem::remove(temporary, ignored);
    throw unwritable(path, failure);
  }
}

}  // namespace bench
