// SPDX-License-Identifier: Apache-2.0
#include "report.h"

#include <cmath>
#include <cstdio>

namespace dlbridge::bars {
namespace {

std::string number(double value) {
  if (!std::isfinite(value)) return "null";
  char text[40];
  std::snprintf(text, sizeof text, "%.9g", value);
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
  return "{\"name\": " + quoted(series.name) + ", \"seconds\": " + list(series.seconds) + "}";
}

// An object that is still open.
std::string head_of(const Bar& bar, const std::string& note) {
  return "{\"name\": " + quoted(bar.name) + ", \"figure\": " + quoted(bar.figure) +
         ", \"unit\": " + quoted(bar.unit) + ", \"sense\": \"" +
         (bar.sense == Sense::at_least ? "at least" : "at most") +
         "\", \"target\": " + number(bar.target) + ", \"goal\": " + number(bar.goal) +
         ", \"note\": " + quoted(note);
}

}  // namespace

std::string line_of(const Facts& facts) {
  std::string out = "{\"facts\": {";
  const char* comma = "";
  for (const auto& [key, value] : facts) {
    out += comma + quoted(key) + ": " + quoted(value);
    comma = ", ";
  }
  return out + "}}";
}

std::string line_of(const Bar& bar, const char* ratio, const Series& ours, const Series& baseline,
                    const std::string& note) {
  return head_of(bar, note) + ", \"ratio\": " + quoted(ratio) + ", \"series\": [" + json_of(ours) +
         ", " + json_of(baseline) + "]}";
}

std::string line_of(const Bar& bar, const std::vector<double>& values, const std::string& note) {
  return head_of(bar, note) + ", \"values\": " + list(values) + "}";
}

std::string not_measured(const Bar& bar, const char* verdict, const std::string& why) {
  return head_of(bar, why) + ", \"verdict\": " + quoted(verdict) + "}";
}

void Report::print(const std::string& line) {
  std::puts(line.c_str());
  std::fflush(stdout);
}

}  // namespace dlbridge::bars
