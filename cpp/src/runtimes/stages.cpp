#include "stages.hpp"

#include <map>
#include <mutex>
#include <utility>

#include "../chain.hpp"
#include "../lazy.hpp"
#include "../tensors.hpp"
#include "anydepth/errors.hpp"
#include "registry.hpp"

namespace anydepth {
namespace {

/// The chain of one depth.
class HostChain : public Engine {
 public:
  HostChain(std::shared_ptr<const Chain> chain, std::vector<std::size_t> running,
            std::map<std::size_t, EnginePtr> engines)
      : chain_(std::move(chain)),
        running_(std::move(running)),
        engines_(std::move(engines)),
        outputs_(chain_->tensors(running_)) {}

  const std::vector<std::string>& inputs() const override { return inputs_; }
  const std::vector<std::string>& outputs() const override { return outputs_; }

  Tensors run(const std::vector<Feed>& feeds,
              const std::vector<std::string>& outputs) const override {
    if (feeds.size() != 1 || feeds.front().name != kSource) {
      std::vector<std::string> names;
      for (const auto& feed : feeds) {
        names.push_back(feed.name);
      }
      throw InputError(std::string("a chain takes the input ") + kSource + "; found " +
                       (names.empty() ? "none" : shorten(names)));
    }
    // What was given stays the caller's; everything else lives as long as the flow holds it.
    Tensors flow{{kSource, Tensor{nullptr, feeds.front().value}}};
    for (const auto& step : *steps_for(outputs)) {
      std::vector<Feed> given;
      for (const auto& [name, tensor] : step.reads) {
        given.push_back({name, flow.at(tensor).view});
      }
      std::vector<std::string> wanted;
      for (const auto& [name, tensor] : step.writes) {
        wanted.push_back(name);
      }
      const auto found = engines_.at(step.piece)->run(given, wanted);
      for (const auto& [name, tensor] : step.writes) {
        flow[tensor] = found.at(name);
      }
      drop_dead(flow, step);
    }
    return flow;
  }

 private:
  using Steps = std::shared_ptr<const std::vector<Step>>;

  static void drop_dead(Tensors& flow, const Step& step) {
    for (auto item = flow.begin(); item != flow.end();) {
      item = step.live.count(item->first) == 0 ? flow.erase(item) : std::next(item);
    }
  }

  /// The steps for each choice of outputs, found once.
  Steps steps_for(const std::vector<std::string>& outputs) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    auto& found = steps_[outputs];
    if (found == nullptr) {
      found = std::make_shared<const std::vector<Step>>(chain_->steps(running_, outputs));
    }
    return found;
  }

  std::shared_ptr<const Chain> chain_;
  std::vector<std::size_t> running_;
  std::map<std::size_t, EnginePtr> engines_;
  std::vector<std::string> inputs_{kSource};
  std::vector<std::string> outputs_;
  mutable std::mutex mutex_;
  mutable std::map<std::vector<std::string>, Steps> steps_;
};

class HostStages : public Stages {
 public:
  HostStages(std::string runtime, std::vector<Link> links, EngineOptions options)
      : runtime_(std::move(runtime)),
        links_(std::move(links)),
        options_(std::move(options)),
        chain_(std::make_shared<const Chain>(specs_of(links_))),
        pieces_(links_.size()) {}

  EnginePtr at(const Depth& depth) const override {
    std::shared_ptr<Lazy<const Engine>> slot;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      auto& found = chains_[depth.text];
      if (found == nullptr) {
        found = std::make_shared<Lazy<const Engine>>();
      }
      slot = found;
    }
    return slot->get([&]() -> EnginePtr {
      const auto running = chain_->at(depth);
      std::map<std::size_t, EnginePtr> engines;
      for (const auto place : running) {
        engines.emplace(place, piece(place));
      }
      return std::make_shared<HostChain>(chain_, running, std::move(engines));
    });
  }

 private:
  EnginePtr piece(std::size_t place) const {
    return pieces_[place].get([&] {
      const auto& link = links_[place];
      auto engine = open_engine(runtime_, link.path, link.artifact, options_);
      check_piece(link.path.filename().string(), *link.artifact.piece, engine->inputs(),
                  engine->outputs());
      return engine;
    });
  }

  std::string runtime_;
  std::vector<Link> links_;
  EngineOptions options_;
  std::shared_ptr<const Chain> chain_;
  mutable std::vector<Lazy<const Engine>> pieces_;
  mutable std::mutex mutex_;
  mutable std::map<std::string, std::shared_ptr<Lazy<const Engine>>> chains_;
};

}  // namespace

std::vector<std::pair<std::string, StagePiece>> specs_of(const std::vector<Link>& links) {
  std::vector<std::pair<std::string, StagePiece>> specs;
  for (const auto& link : links) {
    specs.emplace_back(link.path.filename().string(), *link.artifact.piece);
  }
  return specs;
}

StagesPtr chain_on_host(const std::string& runtime, std::vector<Link> links,
                        const EngineOptions& options) {
  return std::make_shared<HostStages>(runtime, std::move(links), options);
}

}  // namespace anydepth
