#include "report.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <stdexcept>

namespace dlbridge::bars {
namespace {

// Rounds of which every time is written; of more, such as latency samples, the percentiles alone.
constexpr size_t kMaxTimes = 100;

std::string number(double value, int digits = 9) {
  if (!std::isfinite(value)) return "null";
  char text[40];
  std::snprintf(text, sizeof text, "%.*g", digits, value);
  return text;
}

std::string number(const std::optional<double>& value) { return value ? number(*value) : "null"; }

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      char escaped[8];
      std::snprintf(escaped, sizeof escaped, "\\u%04x", static_cast<unsigned>(c));
      out += escaped;
    } else {
      out += c;
    }
  }
  return out + '"';
}

std::string list(const std::vector<double>& values) {
  std::string out = "[";
  for (const double value : values) out += (out.size() > 1 ? ", " : "") + number(value);
  return out + "]";
}

std::string json_of(const Series& series) {
  std::string out = "{\"name\": " + quoted(series.name) +
                    ", \"count\": " + std::to_string(series.seconds.size()) +
                    ", \"p50\": " + number(median(series.seconds)) +
                    ", \"p99\": " + number(quantile(series.seconds, 0.99));
  if (series.seconds.size() <= kMaxTimes) out += ", \"seconds\": " + list(series.seconds);
  return out + "}";
}

std::string json_of(const Outcome& outcome) {
  const Bar& bar = outcome.bar;
  std::string out =
      "    {\"name\": " + quoted(bar.name) + ", \"figure\": " + quoted(bar.figure) +
      ", \"unit\": " + quoted(bar.unit) + ", \"sense\": \"" +
      (bar.sense == Sense::at_least ? "at least" : "at most") +
      "\",\n     \"target\": " + number(bar.target) + ", \"goal\": " + number(bar.goal) +
      ", \"verdict\": " + quoted(name(outcome.verdict)) + ", \"note\": " + quoted(outcome.note);
  if (!outcome.measured()) return out + "}";
  out += ",\n     \"value\": " + number(outcome.value.median) +
         ", \"low\": " + number(outcome.value.low) + ", \"high\": " + number(outcome.value.high) +
         ",\n     \"values\": " + list(outcome.values) + ",\n     \"series\": [";
  for (size_t i = 0; i < outcome.series.size(); ++i)
    out += (i > 0 ? ",\n       " : "\n       ") + json_of(outcome.series[i]);
  return out + "]}";
}

}  // namespace

Report::Report(std::filesystem::path path, Facts facts)
    : path_(std::move(path)), facts_(std::move(facts)) {
  write();
}

void Report::add(Outcome outcome) {
  std::puts(line_of(outcome).c_str());
  outcomes_.push_back(std::move(outcome));
  write();
  // Whoever reads the lines may look into the file at each.
  std::fflush(stdout);
}

bool Report::any_failed() const noexcept {
  return std::ranges::any_of(outcomes_, [](const Outcome& one) {
    return one.verdict == Verdict::failed || one.verdict == Verdict::broken;
  });
}

std::string Report::json() const {
  std::string out = "{\n";
  for (const auto& [key, value] : facts_) out += "  " + quoted(key) + ": " + quoted(value) + ",\n";
  out += "  \"bars\": [";
  for (size_t i = 0; i < outcomes_.size(); ++i)
    out += (i > 0 ? ",\n" : "\n") + json_of(outcomes_[i]);
  return out + "\n  ]\n}\n";
}

void Report::write() const {
  if (path_.empty()) return;
  const std::filesystem::path partial = path_.string() + ".partial";
  {
    std::ofstream file(partial, std::ios::trunc);
    file << json();
    if (!file.flush()) throw std::runtime_error(partial.string() + " cannot be written");
  }
  std::filesystem::rename(partial, path_);
}

std::string line_of(const Outcome& outcome) {
  const Bar& bar = outcome.bar;
  std::string line = bar.name + ": ";
  if (!outcome.measured()) return line + name(outcome.verdict) + ": " + outcome.note;
  const auto shown = [](double value) { return number(value, 4); };
  line += shown(outcome.value.median) + " " + bar.unit + " [" + shown(outcome.value.low) + ", " +
          shown(outcome.value.high) + "]";
  if (bar.target) {
    line += bar.sense == Sense::at_least ? ", at least " : ", at most ";
    line += shown(*bar.target);
  }
  if (bar.goal) line += " (goal " + shown(*bar.goal) + ")";
  line += std::string(": ") + name(outcome.verdict);
  if (!outcome.note.empty()) line += " (" + outcome.note + ")";
  return line;
}

}  // namespace dlbridge::bars
