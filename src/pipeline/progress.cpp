#include "quip/pipeline/progress.hpp"

#include <algorithm>
#include <cstdio>
#include <unistd.h>

#include "core/names.hpp"
#include <fmt/format.h>

#include "quip/core/activity.hpp"

namespace quip {

ProgressStyle parse_progress(const std::string& text) {
  static constexpr Names<ProgressStyle, 4> names{{{ProgressStyle::automatic, "auto"},
                                                  {ProgressStyle::bar, "bar"},
                                                  {ProgressStyle::lines, "lines"},
                                                  {ProgressStyle::none, "none"}}};
  return parse_name(text, names);
}

Progress::Progress(ProgressStyle style, int rank) : style_(style), first_(rank == 0) {
  if (rank != 0) {
    style_ = ProgressStyle::none;
  } else if (style_ == ProgressStyle::automatic) {
    style_ = ::isatty(STDERR_FILENO) != 0 ? ProgressStyle::bar : ProgressStyle::lines;
  }
}

Progress::~Progress() { finish(); }

void Progress::start(index_t total, const std::string& unit) {
  total_ = total;
  unit_ = unit;
  last_line_ = -1;
  start_ = std::chrono::steady_clock::now();
}

std::string Progress::remaining(index_t done) const {
  if (done == 0) return "--:--";
  const double elapsed =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  const auto left =
      static_cast<long>(elapsed / static_cast<double>(done) * static_cast<double>(total_ - done));
  if (left >= 3600) return fmt::format("{}:{:02}:{:02}", left / 3600, left / 60 % 60, left % 60);
  return fmt::format("{:02}:{:02}", left / 60, left % 60);
}

void Progress::update(index_t done, const std::string& what) {
  Activity::current().set_unit(
      fmt::format("{} {} of {}, {}", unit_, std::min(done + 1, total_), total_, what));
  if (style_ == ProgressStyle::bar) {
    draw_bar(done, what);
    drawn_ = true;
  } else if (style_ == ProgressStyle::lines && done != last_line_) {
    last_line_ = done;
    fmt::print(stderr, "quip: {} {}/{}, {} left: {}\n", unit_, done, total_, remaining(done), what);
  }
}

void Progress::draw_bar(index_t done, const std::string& what) const {
  constexpr index_t width = 30;
  const index_t filled = total_ > 0 ? done * width / total_ : width;
  std::string bar(at(filled), '#');
  bar.resize(at(width), '.');
  fmt::print(stderr, "\r[{}] {} {}/{}  ETA {}  {:<40.40}", bar, unit_, done, total_,
             remaining(done), what);
  std::fflush(stderr);
}

void Progress::note(const std::string& text) {
  finish();
  if (first_) fmt::print(stderr, "quip: {}\n", text);
}

void Progress::finish() {
  if (drawn_) fmt::print(stderr, "\n");
  drawn_ = false;
}

}  // namespace quip
