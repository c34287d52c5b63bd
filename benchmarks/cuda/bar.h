// SPDX-License-Identifier: Apache-2.0
// Bar: one promise about speed. bars.py judges it.
#pragma once

#include <optional>
#include <string>

namespace dlbridge::bars {

/// Which side of the target is the right one.
enum class Sense { at_least, at_most };

struct Bar {
  std::string name;    ///< "d2h pooled, 64 MiB, freed": unique
  std::string figure;  ///< what is judged: "time of cudaMemcpyAsync / ours"
  Sense sense;
  std::optional<double> target;  ///< none: the figure is shown, nothing is promised
  std::optional<double> goal;    ///< what is aimed at beyond the target
  std::string unit = "x";
};

}  // namespace dlbridge::bars
