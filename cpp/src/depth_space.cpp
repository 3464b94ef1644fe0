#include "depth_space.hpp"

#include <algorithm>
#include <limits>
#include <set>
#include <string_view>
#include <utility>

#include "anydepth/errors.hpp"
#include "text.hpp"

namespace anydepth {
namespace {

/// The text of the only depth of a network without gates.
constexpr const char* kFull = "full";

bool has(const Gate& gate, int setting) {
  return gate.layers == 0 ? setting == 0 || setting == 1 : setting >= 1 && setting <= gate.layers;
}

int fullest(const Gate& gate) { return gate.layers; }

std::size_t choices(const Gate& gate) {
  return gate.layers == 0 ? 2 : static_cast<std::size_t>(std::max(gate.layers, 0));
}

/// Gates that are written without a dash between them: consecutive ones of one group.
std::vector<std::pair<std::size_t, std::size_t>> groups(const std::vector<Gate>& gates) {
  std::vector<std::pair<std::size_t, std::size_t>> found;
  for (std::size_t place = 0; place < gates.size(); ++place) {
    if (place == 0 || gates[place].group != gates[place - 1].group) {
      found.emplace_back(place, place);
    }
    found.back().second = place + 1;
  }
  return found;
}

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> words{""};
  for (const char letter : text) {
    if (letter == '-') {
      words.emplace_back();
    } else {
      words.back() += letter;
    }
  }
  return words;
}

bool is_count(const std::string& word) {
  return !word.empty() && word.size() <= 3 && std::all_of(word.begin(), word.end(), [](char sign) {
    return '0' <= sign && sign <= '9';
  });
}

std::vector<std::string> texts_of(const std::vector<Depth>& depths) {
  std::vector<std::string> texts;
  for (const auto& depth : depths) {
    texts.push_back(depth.text);
  }
  return texts;
}

}  // namespace

Depth DepthSpace::depth(const std::vector<int>& settings) const {
  if (settings.size() != gates_.size()) {
    throw DepthError("a depth of this model sets " + std::to_string(gates_.size()) + " gates, " +
                     std::to_string(settings.size()) + " were given");
  }
  for (std::size_t place = 0; place < gates_.size(); ++place) {
    const Gate& gate = gates_[place];
    if (!has(gate, settings[place])) {
      std::vector<std::string> expected;
      auto legal = gate.choices();
      std::sort(legal.begin(), legal.end());
      for (const int choice : legal) {
        expected.push_back(std::to_string(choice));
      }
      throw DepthError("gate '" + gate.name + "' cannot be " + std::to_string(settings[place]) +
                       ": expected one of [" + join(expected, ", ") + "]");
    }
  }
  return {settings, format(settings)};
}

Depth DepthSpace::super() const {
  std::vector<int> settings;
  for (const auto& gate : gates_) {
    settings.push_back(fullest(gate));
  }
  return depth(settings);
}

Depth DepthSpace::parse(const std::string& text) const {
  const std::string_view word = strip(text);
  if (lower(word) == "super") {
    return super();
  }
  if (lower(word) == "base") {
    return base();
  }
  if (gates_.empty()) {
    if (lower(word) == kFull) {
      return super();
    }
    throw DepthError("unknown depth '" + text + "': this model has no gates, its one depth is '" +
                     kFull + "' ('super', 'base' and 'level:0' name it, too)");
  }
  const auto problem = [&] {
    return DepthError("unknown depth '" + text + "': this model's depths are written like '" +
                      super().text +
                      "' (F = runs in full, T = refinement skipped, a number = layers that run); "
                      "'super', 'base' and 'level:K' are accepted too");
  };
  const auto words = split(upper(word));
  const auto members = groups(gates_);
  if (words.size() != members.size()) {
    throw problem();
  }
  std::vector<int> settings;
  for (std::size_t place = 0; place < words.size(); ++place) {
    const std::string& letters = words[place];
    const auto [first, last] = members[place];
    if (gates_[first].layers != 0) {
      const auto prefix = counted();
      if (letters.compare(0, prefix.size(), prefix) != 0 ||
          !is_count(letters.substr(prefix.size()))) {
        throw problem();
      }
      settings.push_back(std::stoi(letters.substr(prefix.size())));
    } else if (letters.size() == last - first &&
               letters.find_first_not_of("FT") == std::string::npos) {
      for (const char letter : letters) {
        settings.push_back(letter == 'T' ? 1 : 0);
      }
    } else {
      throw problem();
    }
  }
  try {
    return depth(settings);
  } catch (const DepthError& error) {
    throw DepthError("unknown depth '" + text + "': " + error.what());
  }
}

std::vector<Depth> DepthSpace::ladder(const std::vector<std::string>& texts) const {
  std::vector<Depth> rungs;
  for (const auto& text : texts) {
    rungs.push_back(parse(text));
  }
  const Depth low = base();
  const Depth high = super();
  if (rungs.empty() || !(rungs.front() == low) || !(rungs.back() == high)) {
    throw DepthError("a ladder goes from base (" + low.text + ") to super (" + high.text +
                     "); found: " + shorten(texts_of(rungs)));
  }
  std::set<std::vector<int>> seen;
  for (const auto& depth : rungs) {
    if (!seen.insert(depth.settings).second) {
      throw DepthError("a ladder names each depth once; found: " + shorten(texts_of(rungs), 12));
    }
  }
  return rungs;
}

std::size_t DepthSpace::count() const {
  std::size_t product = 1;
  for (const auto& gate : gates_) {
    const std::size_t factor = choices(gate);
    if (factor != 0 && product > std::numeric_limits<std::size_t>::max() / factor) {
      return std::numeric_limits<std::size_t>::max();
    }
    product *= factor;
  }
  return product;
}

std::vector<Depth> DepthSpace::every() const {
  std::vector<Depth> depths{super()};
  std::vector<int> settings = depths.front().settings;
  std::size_t place = settings.size();
  while (place > 0) {  // as an odometer counts: the last gate first
    const Gate& gate = gates_[--place];
    const int next = gate.layers == 0 ? settings[place] + 1 : settings[place] - 1;
    if (!has(gate, next)) {
      settings[place] = fullest(gate);
      continue;
    }
    settings[place] = next;
    depths.push_back(depth(settings));
    place = settings.size();
  }
  return depths;
}

std::string DepthSpace::counted() const {
  const bool only = std::all_of(gates_.begin(), gates_.end(),
                                [](const Gate& gate) { return gate.layers != 0; });
  return only ? "L" : "";
}

std::string DepthSpace::format(const std::vector<int>& settings) const {
  if (settings.empty()) {
    return kFull;
  }
  std::string text;
  for (std::size_t place = 0; place < gates_.size(); ++place) {
    const bool begins = place == 0 || gates_[place].group != gates_[place - 1].group;
    if (begins && place > 0) {
      text += '-';
    }
    text += begins ? counted() : "";
    text += gates_[place].layers == 0 ? std::string(1, "FT"[settings[place]])
                                      : std::to_string(settings[place]);
  }
  return text;
}

}  // namespace anydepth
