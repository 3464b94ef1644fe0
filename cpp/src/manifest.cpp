#include "anydepth/manifest.hpp"

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>
#include <variant>
#include <vector>

#include "anydepth/errors.hpp"
#include "depth_space.hpp"
#include "json.hpp"
#include "json_reader.hpp"
#include "manifest_fields.hpp"
#include "manifest_version.hpp"
#include "regular_file.hpp"
#include "text.hpp"
#include "warn.hpp"

namespace anydepth {
namespace {

constexpr const char* kManifest = "manifest.json";
constexpr const char* kRemedy = "delete the folder and export the bundle again";
/// More than any manifest has; limits the time and memory that a made-up one can cost.
constexpr std::uintmax_t kMostBytes = 16U << 20U;

[[noreturn]] void refuse(const std::string& problem) {
  throw InvalidJson("", problem);
}

/// What to say of a bundle that is no folder; the Python package says the same.
std::string no_folder(const std::filesystem::path& path) {
  const std::string name = path.string();
  std::error_code error;
  if (!std::filesystem::exists(path, error)) {
    return "bundle " + name + " does not exist; make one with 'anydepth-deploy export'";
  }
  const std::string suffix = lower(path.extension().string());
  if (suffix == ".pth" || suffix == ".pt" || suffix == ".safetensors") {
    return name +
           " is a checkpoint, expected the folder of a bundle; make one of it with "
           "'anydepth-deploy export " +
           name + " --out FOLDER'";
  }
  if (suffix == ".onnx" || suffix == ".engine" || suffix == ".plan" ||
      path.filename() == kManifest) {
    return name +
           " is one file of a bundle, expected its folder; name the folder that holds its " +
           kManifest;
  }
  return name +
         " is a file, expected the folder of a bundle; make one with 'anydepth-deploy export'";
}

BundleError damaged(const std::filesystem::path& path, const std::string& problem) {
  return BundleError(path.string() + " is damaged (" + problem + "): " + kRemedy);
}

std::string read_text(const std::filesystem::path& path) {
  const auto cannot = [&](int reason) {
    return BundleError(path.string() + " cannot be read: [Errno " + std::to_string(reason) + "] " +
                       std::generic_category().message(reason) + ": '" + path.string() + "'");
  };
  if (const auto kind = kind_of_file(path)) {
    throw BundleError(path.string() + " cannot be read: " + no_file(*kind));
  }
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    if (errno == ENOENT) {
      throw BundleError("folder " + path.parent_path().string() + " is not a bundle: it has no " +
                        kManifest);
    }
    throw cannot(errno != 0 ? errno : EIO);
  }
  std::string text;
  std::vector<char> block(1U << 16U);
  while (file.read(block.data(), static_cast<std::streamsize>(block.size())) || file.gcount() > 0) {
    text.append(block.data(), static_cast<std::size_t>(file.gcount()));
    if (text.size() > kMostBytes) {
      throw BundleError(path.string() + " has more than " + std::to_string(kMostBytes) +
                        " bytes, which no manifest has: " + kRemedy);
    }
  }
  if (!is_utf8(text)) {
    throw damaged(path, "it is not text in UTF-8");
  }
  return text;
}

/// Another version may have other fields: it is told apart first. The version of a manifest with
/// fields that may be unknown here; none where all are known.
std::optional<ManifestVersion> newer_version(const std::filesystem::path& path,
                                             const Json& manifest) {
  const auto* members = std::get_if<JsonMembers>(&manifest.value);
  for (std::size_t place = 0; members != nullptr && place < members->size(); ++place) {
    const auto& [key, value] = (*members)[place];
    const auto version = key == "version" ? version_of(value) : std::nullopt;
    if (version && version->major != kKnownVersion.major) {
      throw BundleError(path.string() + " has manifest version " + written_version(*version) +
                        ", this anydepth-deploy reads version " + written_version(kKnownVersion) +
                        ": export it into another folder, or " + made_it(manifest));
    }
    if (version && version->minor > kKnownVersion.minor) {
      return version;
    }
  }
  return std::nullopt;
}

void check_rows(const std::vector<DepthRow>& rows, const DepthTable& table) {
  for (std::size_t row = 0; row < rows.size(); ++row) {
    if (rows[row].depth != table.rows()[row].text) {
      refuse("the depth table does not follow from the gates and the ladder");
    }
  }
  for (std::size_t row = 0; row < rows.size(); ++row) {
    if (rows[row].index != static_cast<std::int64_t>(row)) {
      refuse("the rows of the depth table are not numbered from 0");
    }
  }
  for (std::size_t row = 0; row < rows.size(); ++row) {
    const auto level = table.level(row);
    const bool same =
        level ? rows[row].level == static_cast<std::int64_t>(*level) : !rows[row].level.has_value();
    if (!same || rows[row].macs <= 0) {
      refuse("row " + std::to_string(row) + " of the depth table has a wrong level or no macs");
    }
  }
}

/// The ladder that the rows begin with, where it is another than that of the manifest: all down to
/// super. None where there is no such ladder.
std::vector<std::string> first_rows(const DepthSpace& space, const ManifestFields& fields) {
  std::vector<std::string> first;
  const auto last = space.super().text;
  for (const auto& row : fields.depths) {
    first.push_back(row.depth);
    if (row.depth == last) {
      try {
        return space.ladder(first) == space.ladder(fields.ladder) ? std::vector<std::string>{}
                                                                  : first;
      } catch (const DepthError&) {
        return {};
      }
    }
  }
  return {};
}

/// The table of depths. Counted first: a damaged list of gates must not make a table of billions of
/// rows.
DepthTable make_table(const ManifestFields& fields) {
  try {
    const DepthSpace space(fields.gates, fields.base);
    space.ladder(fields.ladder);
    if (space.count() != fields.depths.size()) {
      refuse("the depth table does not follow from the gates and the ladder");
    }
    DepthTable table(fields.gates, fields.base, fields.ladder, first_rows(space, fields));
    check_rows(fields.depths, table);
    return table;
  } catch (const DepthError& error) {
    refuse(error.what());
  }
}

void check_artifact(const ArtifactFields& fields, const DepthTable& table) {
  const Artifact& artifact = fields.artifact;
  bool consistent = false;
  if (!artifact.depth) {
    consistent = artifact.layout == (artifact.piece ? "stages" : "gated") && !fields.row;
  } else {
    const auto count = static_cast<std::int64_t>(table.rows().size());
    consistent = artifact.layout == "set" && fields.row && *fields.row >= 0 &&
                 *fields.row < count &&
                 table.rows()[static_cast<std::size_t>(*fields.row)].text == *artifact.depth;
  }
  if (!consistent) {
    refuse("layout, depth and row of the artifact " + artifact.name + " do not agree");
  }
  if (artifact.piece) {
    const auto& gates = table.gates();
    for (const auto& condition : artifact.piece->when) {
      if (condition.gate >= gates.size() || condition.layer > gates[condition.gate].layers) {
        refuse("the piece " + artifact.name + " asks for a gate that is not there");
      }
    }
  }
  if ((artifact.format == "onnx") == artifact.engine.has_value()) {
    refuse("the artifact " + artifact.name + " is " + artifact.format +
           ", which does not go with " + (artifact.engine ? "its" : "no") + " engine");
  }
  if ((artifact.precision == "int8") != artifact.target.has_value()) {
    refuse("the artifact " + artifact.name + " is " + artifact.precision +
           ", which does not go with " + (artifact.target ? "its" : "no") + " quantisation");
  }
}

/// What is not in the graph works on predictions, which the graph must give.
void check_suppression(const ManifestFields& fields) {
  if (!fields.suppression || fields.suppression->where == Suppression::Where::kGraph) {
    return;
  }
  const auto& outputs = fields.raw_outputs;
  if (std::none_of(outputs.begin(), outputs.end(),
                   [](const auto& output) { return output.first == "predictions"; })) {
    refuse("suppression outside the graph needs the raw output 'predictions'");
  }
  for (const auto& [artifact, row] : fields.artifacts) {
    if (!artifact.raw) {
      refuse("the artifact " + artifact.name +
             " gives no raw outputs, but suppression is not in the graph");
    }
  }
}

/// Rungs go from base to super.
void check_measured(const ManifestFields& fields) {
  const DepthSpace space(fields.gates, fields.base);
  for (std::size_t place = 0; place < fields.measured.size(); ++place) {
    std::vector<std::string> texts;
    for (const auto& rung : fields.measured[place].rungs) {
      texts.push_back(rung.depth);
    }
    try {
      space.ladder(texts);
    } catch (const DepthError& error) {
      refuse("the measured ladder " + std::to_string(place) + ": " + error.what());
    }
  }
}

Manifest make_manifest(ManifestFields fields) {
  DepthTable table = make_table(fields);
  for (const auto& artifact : fields.artifacts) {
    check_artifact(artifact, table);
  }
  check_suppression(fields);
  check_measured(fields);
  std::vector<std::uint64_t> macs;
  for (const auto& row : fields.depths) {
    macs.push_back(static_cast<std::uint64_t>(row.macs));
  }
  std::vector<Artifact> artifacts;
  for (auto& [artifact, row] : fields.artifacts) {
    artifacts.push_back(std::move(artifact));
    if (row) {
      artifacts.back().row = static_cast<std::size_t>(*row);
    }
  }
  return {std::move(fields.tool_version),
          std::move(fields.source_file),
          std::move(fields.source_sha256),
          std::move(fields.family),
          std::move(fields.config),
          std::move(fields.classes),
          fields.preprocess,
          std::move(table),
          std::move(macs),
          std::move(fields.raw_outputs),
          fields.suppression,
          fields.max_detections,
          std::move(artifacts),
          std::move(fields.measured)};
}

}  // namespace

bool Condition::holds(const Depth& depth) const {
  const int setting = depth.settings.at(gate);
  return (layer != 0 ? setting >= layer : setting == 0) == runs;
}

bool StagePiece::runs(const Depth& depth) const {
  return std::all_of(when.begin(), when.end(),
                     [&](const Condition& condition) { return condition.holds(depth); });
}

Manifest read_manifest(const std::filesystem::path& folder) {
  const auto path = folder / kManifest;
  std::error_code error;
  if (!std::filesystem::is_directory(folder, error)) {
    throw BundleError(no_folder(folder));
  }
  const std::string text = read_text(path);
  Json content;
  try {
    content = parse_json(text);
  } catch (const std::invalid_argument& problem) {
    throw damaged(path, problem.what());
  }
  const auto newer = newer_version(path, content);
  std::vector<std::string> unknown;
  try {
    Manifest found = make_manifest(read_fields(content, newer ? &unknown : nullptr));
    if (!unknown.empty()) {
      warn(path.string() + " is of version " + version_text(*newer) + ", newer than " +
           version_text(kKnownVersion) +
           ", which this anydepth-deploy knows; left out what it does not know: " +
           shorten(unknown, 4));
    }
    return found;
  } catch (const InvalidJson& invalid) {
    const std::string where = shorten({invalid.place().empty() ? "manifest" : invalid.place()});
    const std::string remedy =
        newer ? "it is of a newer version (" + version_text(*newer) + "): " + made_it(content)
              : kRemedy;
    throw BundleError(path.string() + " is not a valid manifest: " + where + ": " +
                      invalid.problem() + ": " + remedy);
  }
}

}  // namespace anydepth
