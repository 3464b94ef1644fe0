#include "chain.hpp"

#include <algorithm>
#include <iterator>
#include <utility>

#include "anydepth/errors.hpp"
#include "text.hpp"

namespace anydepth {
namespace {

/// Adds what is not there yet, in order.
class OrderedSet {
 public:
  void add(const std::string& word) {
    if (seen_.insert(word).second) {
      words_.push_back(word);
    }
  }
  std::vector<std::string> take() { return std::move(words_); }

 private:
  std::set<std::string> seen_;
  std::vector<std::string> words_;
};

std::vector<std::string> absent(const std::vector<std::string>& words,
                                const std::set<std::string>& from) {
  std::vector<std::string> found;
  std::copy_if(words.begin(), words.end(), std::back_inserter(found),
               [&](const std::string& word) { return from.count(word) == 0; });
  return found;
}

std::vector<std::string> keys(const Names& names) {
  std::vector<std::string> found;
  for (const auto& name : names) {
    found.push_back(name.first);
  }
  return found;
}

std::vector<std::string> values(const Names& names) {
  std::vector<std::string> found;
  for (const auto& name : names) {
    found.push_back(name.second);
  }
  return found;
}

std::set<std::string> set_of(const std::vector<std::string>& words) {
  return {words.begin(), words.end()};
}

}  // namespace

Chain::Chain(std::vector<std::pair<std::string, StagePiece>> pieces) {
  std::set<int> totals;
  for (auto& [name, spec] : pieces) {
    totals.insert(spec.total);
    names_.push_back(std::move(name));
    specs_.push_back(std::move(spec));
  }
  if (totals.size() != 1 || static_cast<std::size_t>(*totals.begin()) != specs_.size()) {
    std::vector<std::string> counts;
    for (const int total : totals) {
      counts.push_back(std::to_string(total));
    }
    throw BundleError("the chain has " + std::to_string(specs_.size()) + " pieces, expected " +
                      (counts.empty() ? "at least one" : join(counts, " or ")) +
                      " (here: " + (names_.empty() ? "none" : shorten(names_)) +
                      "): export or build layout stages again");
  }
  std::set<std::string> read;
  std::vector<std::size_t> all;
  for (std::size_t place = 0; place < specs_.size(); ++place) {
    const auto set = values(specs_[place].writes);
    if (set_of(set).size() != set.size()) {
      throw BundleError("the piece " + names_[place] + " sets a tensor twice: export it again");
    }
    const auto given = values(specs_[place].reads);
    read.insert(given.begin(), given.end());
    all.push_back(place);
  }
  ends_ = absent(tensors(all), read);
}

std::vector<std::size_t> Chain::at(const Depth& depth) const {
  std::vector<std::size_t> running;
  for (std::size_t place = 0; place < specs_.size(); ++place) {
    if (specs_[place].runs(depth)) {
      running.push_back(place);
    }
  }
  std::stable_sort(running.begin(), running.end(), [this](std::size_t one, std::size_t other) {
    return specs_[one].order < specs_[other].order;
  });
  std::set<std::string> known{kSource};
  for (std::size_t index = 0; index < running.size(); ++index) {
    const std::size_t place = running[index];
    if (index > 0 && specs_[running[index - 1]].order == specs_[place].order) {
      throw BundleError("the pieces " + names_[running[index - 1]] + " and " + names_[place] +
                        " both run at depth " + depth.text +
                        ", expected at most one of an order: export layout stages again");
    }
    const auto unset = absent(values(specs_[place].reads), known);
    if (!unset.empty()) {
      throw BundleError("the piece " + names_[place] + " reads " + shorten(unset) +
                        ", which no piece before it sets at depth " + depth.text +
                        ": export layout stages again");
    }
    const auto set = values(specs_[place].writes);
    known.insert(set.begin(), set.end());
  }
  const auto unset = absent(ends_, known);
  if (!unset.empty() || running.empty()) {
    throw BundleError("no piece sets " + (unset.empty() ? "anything" : shorten(unset)) +
                      " at depth " + depth.text + ": export layout stages again");
  }
  return running;
}

std::vector<std::string> Chain::tensors(const std::vector<std::size_t>& running) const {
  OrderedSet found;
  for (const std::size_t place : running) {
    for (const auto& [name, tensor] : specs_[place].writes) {
      found.add(tensor);
    }
  }
  return found.take();
}

std::vector<Step> Chain::steps(const std::vector<std::size_t>& running,
                               const std::vector<std::string>& outputs) const {
  const auto has = tensors(running);
  const auto unknown = absent(outputs, set_of(has));
  if (!unknown.empty() || outputs.empty()) {
    throw InputError("the chain has no outputs " +
                     (unknown.empty() ? "(none were asked for)" : shorten(unknown)) + "; it has " +
                     shorten(has));
  }
  std::set<std::string> live = set_of(outputs);
  std::vector<Step> steps;
  for (auto place = running.rbegin(); place != running.rend(); ++place) {
    const StagePiece& spec = specs_[*place];
    Names writes;
    std::copy_if(spec.writes.begin(), spec.writes.end(), std::back_inserter(writes),
                 [&](const auto& name) { return live.count(name.second) > 0; });
    if (writes.empty()) {
      continue;
    }
    steps.push_back({*place, spec.reads, writes, live});
    for (const auto& name : writes) {
      live.erase(name.second);
    }
    const auto given = values(spec.reads);
    live.insert(given.begin(), given.end());
  }
  std::reverse(steps.begin(), steps.end());
  return steps;
}

void check_piece(const std::string& name, const StagePiece& spec,
                 const std::vector<std::string>& inputs, const std::vector<std::string>& outputs) {
  const auto unset = absent(inputs, set_of(keys(spec.reads)));
  auto missing = absent(keys(spec.reads), set_of(inputs));
  const auto unwritten = absent(keys(spec.writes), set_of(outputs));
  missing.insert(missing.end(), unwritten.begin(), unwritten.end());
  if (!unset.empty() || !missing.empty()) {
    throw BundleError(
        "the piece " + name + " " +
        (unset.empty() ? "has no " + shorten(missing) : "also takes " + shorten(unset)) +
        ", which the manifest does not say of it: export or build layout stages again");
  }
}

}  // namespace anydepth
