// SPDX-License-Identifier: Apache-2.0
#include "options.h"

#include <charconv>
#include <stdexcept>
#include <string_view>

namespace dlbridge::bars {
namespace {

template <typename Number>
Number parsed(std::string_view option, std::string_view text, Number least) {
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || !(value >= least)) {
    throw std::invalid_argument(std::string(option) + " is '" + std::string(text) +
                                "'; expected a number, " + std::to_string(least) + " or more");
  }
  return value;
}

}  // namespace

Options parse_options(int argc, const char* const* argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string_view name = argv[i];
    if (name == "--list") {
      options.list = true;
      continue;
    }
    const bool known = name == "--only" || name == "--seed" || name == "--rounds" ||
                       name == "--samples" || name == "--seconds" || name == "--device";
    if (!known) {
      throw std::invalid_argument("unknown argument '" + std::string(name) +
                                  "'; expected --only, --seed, --rounds, --samples, "
                                  "--seconds, --device or --list");
    }
    if (i + 1 == argc) throw std::invalid_argument(std::string(name) + " lacks its value");
    const std::string_view value = argv[++i];
    if (name == "--only") options.only = value;
    if (name == "--seed") options.seed = parsed<uint64_t>(name, value, 0);
    // Fewer than these and the intervals say little.
    if (name == "--rounds") options.rounds = parsed(name, value, 15);
    if (name == "--samples") options.samples = parsed(name, value, 5000);
    if (name == "--seconds") options.seconds = parsed(name, value, 0.0);
    if (name == "--device") options.device = parsed(name, value, 0);
  }
  return options;
}

}  // namespace dlbridge::bars
