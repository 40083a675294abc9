// Progress of a long job: on rank 0 a bar on a terminal or lines in a log, on every rank the unit
// that messages about a stall name.
#pragma once

#include <chrono>
#include <string>

#include "quip/core/matrix.hpp"

namespace quip {

enum class ProgressStyle { automatic, bar, lines, none };
/// Parses "auto", "bar", "lines", "none"; throws Error listing the choices.
[[nodiscard]] ProgressStyle parse_progress(const std::string& text);

class Progress {
 public:
  /// Writes to stderr if `rank` is 0; automatic: a bar if that is a terminal.
  Progress(ProgressStyle style, int rank);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void start(index_t total, const std::string& unit);
  /// Shows that `done` of the total are finished and `what` is in hand.
  void update(index_t done, const std::string& what);
  void finish();
  /// Writes a line to stderr if this is rank 0, whatever the style.
  void note(const std::string& text);

 private:
  void draw_bar(index_t done, const std::string& what) const;
  [[nodiscard]] std::string remaining(index_t done) const;

  ProgressStyle style_;
  bool first_;
  bool drawn_ = false;
  index_t total_ = 0;
  index_t last_line_ = -1;
  std::string unit_;
  std::chrono::steady_clock::time_point start_;
};

}  // namespace quip
