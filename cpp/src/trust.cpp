#include <string>
#include <vector>

#include "anydepth/errors.hpp"
#include "choose.hpp"
#include "warn.hpp"

namespace anydepth {

void check_trust(const std::vector<Artifact>& artifacts) {
  const Artifact* failed = nullptr;
  bool samples = false;
  std::vector<std::string> unknown;
  std::string runtime;
  for (const auto& item : artifacts) {
    if (!item.engine) {
      continue;
    }
    runtime = runtime.empty() ? item.format : runtime;
    if (!item.verified) {
      unknown.push_back(item.name);
    } else if (!item.verified->passed) {
      failed = failed != nullptr ? failed : &item;
      samples = samples || item.deformable == "gridsample";
    }
  }
  if (failed != nullptr) {
    throw BundleError(
        "the engine " + failed->name + " failed its verification: it does not compute what " +
        failed->verified->reference + " does; build it again with " +
        (samples ? "--deformable gather or " : "") + "another TensorRT, and verify it");
  }
  if (!unknown.empty()) {
    warn("never verified on this kind of device: " + shorten(unknown, 3) +
         "; run 'anydepth-deploy verify BUNDLE --runtime " + runtime +
         "' before trusting what it finds");
  }
}

}  // namespace anydepth
