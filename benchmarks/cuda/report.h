// Report: the outcomes so far, as JSON in a file that is whole at any moment, and one line each.
//
// Owns: the outcomes. Thread: one.
#pragma once

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "bar.h"

namespace dlbridge::bars {

/// What a value of the JSON's head says: {"seed", "7"}. Values are strings.
using Facts = std::vector<std::pair<std::string, std::string>>;

class Report {
 public:
  /// Writes to `path` where it is not empty.
  Report(std::filesystem::path path, Facts facts);

  /// Adds one, prints its line and writes the file anew. Throws std::runtime_error where the file
  /// cannot be written.
  void add(Outcome outcome);

  const std::vector<Outcome>& outcomes() const noexcept { return outcomes_; }
  /// Whether a bar was missed or a case was broken.
  bool any_failed() const noexcept;
  /// The whole document.
  std::string json() const;

 private:
  void write() const;

  std::filesystem::path path_;
  Facts facts_;
  std::vector<Outcome> outcomes_;
};

/// "d2h pooled, 64 MiB, freed: 0.981 x [0.975, 0.986], at least 0.97: passed"
std::string line_of(const Outcome& outcome);

}  // namespace dlbridge::bars
