// An application: prints what a bundle holds and this build of the library can run.

#include <iostream>

#include <anydepth/anydepth.hpp>

int main(int count, char** words) {
  std::cout << "anydepth " << ANYDEPTH_VERSION << ' ' << anydepth::version() << '\n';
  try {
    const auto bundle = anydepth::Bundle::open(count > 1 ? words[1] : ".");
    std::cout << bundle.manifest().family << " with " << bundle.table().rows().size()
              << " depths\n";
    for (const auto& runtime : anydepth::runtimes()) {
      std::cout << "runtime " << runtime << '\n';
    }
  } catch (const anydepth::BundleError& error) {
    std::cout << "refused: " << error.what() << '\n';
    return 2;
  }
  return 0;
}
