#include "engines.hpp"

#include <atomic>
#include <map>
#include <utility>

#include "anydepth/errors.hpp"
#include "choose.hpp"
#include "graphs.hpp"
#include "lazy.hpp"
#include "runtimes/registry.hpp"

namespace anydepth {
namespace {

std::vector<std::size_t> all_rows(const DepthTable& table) {
  std::vector<std::size_t> rows(table.rows().size());
  for (std::size_t row = 0; row < rows.size(); ++row) {
    rows[row] = row;
  }
  return rows;
}

/// An artifact, opened, and held against the manifest.
EnginePtr opened(const Bundle& bundle, const Artifact& artifact, const std::string& runtime,
                 const EngineOptions& options, bool check) {
  const auto path = graph_file(bundle, artifact, check);
  auto engine = open_engine(runtime, path, artifact, options);
  check_engine(path.string(), *engine, artifact, bundle.manifest());
  return engine;
}

/// One graph for all depths; the row goes in as an input.
class GatedEngine : public Engines {
 public:
  GatedEngine(EnginePtr engine, const DepthTable& table)
      : engine_(std::move(engine)), rows_(all_rows(table)) {}

  Located at(std::size_t) const override { return {engine_, true}; }
  std::vector<std::size_t> rows() const override { return rows_; }

 private:
  EnginePtr engine_;
  std::vector<std::size_t> rows_;
};

/// One static graph per depth, each opened when it is first used.
class EngineSet : public Engines {
 public:
  EngineSet(Bundle bundle, const std::vector<Artifact>& artifacts, std::string runtime,
            EngineOptions options, bool check)
      : bundle_(std::move(bundle)),
        runtime_(std::move(runtime)),
        options_(std::move(options)),
        check_(check) {
    for (const auto& artifact : artifacts) {
      if (artifact.row) {
        graphs_[*artifact.row].artifact = artifact;
      }
    }
  }

  Located at(std::size_t row) const override {
    const auto found = graphs_.find(row);
    if (found == graphs_.end()) {
      throw BundleError(missing(row));
    }
    auto& graph = found->second;
    return {graph.engine.get(
                [&] { return opened(bundle_, graph.artifact, runtime_, options_, check_); }),
            false};
  }

  std::vector<std::size_t> rows() const override {
    std::vector<std::size_t> rows;
    for (const auto& [row, graph] : graphs_) {
      rows.push_back(row);
    }
    return rows;
  }

 private:
  struct Graph {
    Artifact artifact;
    Lazy<const Engine> engine;
  };

  std::string missing(std::size_t row) const {
    const auto& depths = bundle_.table().rows();
    std::vector<std::string> has;
    for (const auto& [found, graph] : graphs_) {
      has.push_back(depths[found].text);
    }
    const auto& wanted = depths[row].text;
    return "bundle " + bundle_.path().string() + " has no static graph of depth " + wanted +
           "; it has " + shorten(has) + ". Add it with 'export --layout set --depth " + wanted +
           export_words(graphs_.begin()->second.artifact) + "', or use the gated graph";
  }

  Bundle bundle_;
  std::string runtime_;
  EngineOptions options_;
  bool check_;
  mutable std::map<std::size_t, Graph> graphs_;
};

/// Pieces of the network; the chain of a depth acts as one engine.
class EngineChains : public Engines {
 public:
  EngineChains(StagesPtr stages, Bundle bundle, const std::vector<Artifact>& artifacts)
      : stages_(std::move(stages)),
        bundle_(std::move(bundle)),
        last_(artifacts.front()),
        rows_(all_rows(bundle_.table())),
        checked_(rows_.size()) {
    for (const auto& artifact : artifacts) {  // the chain ends early where one of its pieces does
      last_ = artifact.engine && !artifact.engine->detections ? artifact : last_;
    }
  }

  Located at(std::size_t row) const override {
    const auto& depth = bundle_.table().rows()[row];
    auto chain = stages_->at(depth);
    if (!checked_[row]) {
      check_engine("the chain at depth " + depth.text, *chain, last_, bundle_.manifest());
      checked_[row] = true;
    }
    return {std::move(chain), false};
  }

  std::vector<std::size_t> rows() const override { return rows_; }

 private:
  StagesPtr stages_;
  Bundle bundle_;
  Artifact last_;
  std::vector<std::size_t> rows_;
  mutable std::vector<std::atomic<bool>> checked_;
};

}  // namespace

EnginesPtr open_engines(const Bundle& bundle, const std::vector<Artifact>& artifacts,
                        const std::string& runtime, const EngineOptions& options, bool check) {
  const auto& first = artifacts.front();
  if (first.layout == "gated") {
    auto engine = opened(bundle, first, runtime, options, check);
    return std::make_unique<GatedEngine>(std::move(engine), bundle.table());
  }
  if (first.layout == "stages") {
    std::vector<Link> links;
    for (const auto& artifact : artifacts) {
      if (artifact.piece) {
        links.push_back({graph_file(bundle, artifact, check), artifact});
      }
    }
    return std::make_unique<EngineChains>(open_stages(runtime, std::move(links), options), bundle,
                                          artifacts);
  }
  return std::make_unique<EngineSet>(bundle, artifacts, runtime, options, check);
}

}  // namespace anydepth
