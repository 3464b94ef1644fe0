// anydepth-bench: the latency of each depth of a bundle, without Python.

#include <cstdio>
#include <exception>
#include <iostream>
#include <new>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "anydepth/anydepth.hpp"
#include "bench_host.hpp"
#include "bench_inputs.hpp"
#include "bench_measure.hpp"
#include "bench_options.hpp"
#include "bench_result.hpp"
#include "bench_show.hpp"
#include "text.hpp"

namespace {

using anydepth::Depth;

/// The function that is timed: runs a batch by its index at one depth.
bench::Call call_of(const anydepth::Session& session, const Depth& depth,
                    const bench::Inputs& inputs, const bench::Options& options) {
  if (options.scope == "pictures") {
    return [=, &inputs](std::size_t item) { session.run(inputs.batches[item], depth); };
  }
  if (options.scope == "detections") {
    const auto batch = options.batch;
    return [=, &inputs](std::size_t item) {
      session.run(inputs.prepared[item].data(), batch, depth);
    };
  }
  const auto& recipe = session.preprocess();
  const std::vector<std::int64_t> shape{static_cast<std::int64_t>(options.batch), 3,
                                        static_cast<std::int64_t>(recipe.height),
                                        static_cast<std::int64_t>(recipe.width)};
  return [=, &inputs](std::size_t item) {
    session.run_raw({inputs.prepared[item].data(), anydepth::Type::kFloat32, shape}, depth);
  };
}

/// Makes the calls that standard input asks for, until it ends. Of two calls in a row the second is
/// timed: the first brings back what caches have lost while this program waited.
void serve(const std::vector<bench::Call>& calls, std::size_t items) {
  std::size_t depth = 0;
  std::size_t item = 0;
  while (std::cin >> depth >> item) {
    const auto& call = calls.at(depth);
    call(item % items);
    const auto took = bench::milliseconds_of([&] { call(item % items); });
    std::printf("%.0f\n", 1e6 * took);
    std::fflush(stdout);
  }
}

/// Measures; or serves, and has no result.
std::optional<nlohmann::ordered_json> run(const bench::Options& options) {
  const auto bundle = anydepth::Bundle::open(options.bundle);
  const auto depths = bench::select(bundle.table(), options.depth);
  const auto inputs = bench::load_inputs(options, bundle.manifest().preprocess);
  bench::Memory memory;
  memory.before = bench::resident_memory();
  std::optional<anydepth::Session> session;
  const auto load_ms = bench::milliseconds_of([&] {
    session = bundle.session(options.session);
    for (const auto& depth : depths) {
      session->load(depth);
    }
  });
  bench::check_passed(bundle, session->artifacts(), options);
  std::vector<bench::Call> calls;
  for (const auto& depth : depths) {
    calls.push_back(call_of(*session, depth, inputs, options));
  }
  if (options.on_request) {
    serve(calls, inputs.batches.size());
    return std::nullopt;
  }
  const auto measured = bench::measure(calls, inputs.batches.size(), options,
                                       [&] { memory.loaded = bench::resident_memory(); });
  return bench::result_of(
      {options, bundle, *session, depths, inputs, measured, memory, load_ms});
}

void print(const nlohmann::ordered_json& result, const bench::Options& options, bool written) {
  if (!options.json) {
    bench::show(result);
    if (written) {
      std::printf("result: %s\n", anydepth::shown(options.out->string()).c_str());
    }
    return;
  }
  nlohmann::ordered_json shown = {{"schema_version", 1}};  // as Python's commands begin theirs
  shown.update(result);
  for (auto& depth : shown["depths"]) {
    depth.erase("samples");
  }
  std::printf("%s\n", shown.dump(1, ' ', true).c_str());
}

}  // namespace

int main(int count, char** words) {
  try {
    const std::vector<std::string> given(words + 1, words + count);
    if (!given.empty() && given.front() == "--help") {
      std::printf("%s\n", bench::usage());
      return 0;
    }
    const auto options = bench::parse(given);
    if (options.out) {
      bench::check_place(*options.out);
    }
    const auto result = run(options);
    if (!result) {
      return 0;
    }
    std::optional<anydepth::Error> failure;
    if (options.out) {
      try {
        bench::write_result(*options.out, *result);
      } catch (const anydepth::Error& error) {
        failure = error;
      }
    }
    print(*result, options, options.out && !failure);  // what was measured is not lost
    if (failure) {
      throw *failure;
    }
    return 0;
  } catch (const anydepth::Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 2;
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr,
                 "error: there is not enough memory for this: free some, or give smaller pictures "
                 "or batches\n");
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: this is a bug: %s\n", anydepth::shown(error.what()).c_str());
    return 3;
  }
}
