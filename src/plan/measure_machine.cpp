#include "measure_machine.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <fstream>
#include <functional>
#include <limits>
#include <memory>
#include <unistd.h>
#include <vector>

#include "io/files.hpp"
#include "store/rest_file.hpp"
#include "store/state_file.hpp"

#include "quip/comm/schedule.hpp"
#include "quip/core/dtype.hpp"
#include "quip/core/error.hpp"
#include "quip/linalg/blas.hpp"
#include "quip/pipeline/report.hpp"

namespace quip::plan {

double largest(Collectives& comm, double value) {
  auto single = static_cast<float>(value);
  comm.all_reduce_max(std::span(&single, 1));
  return single;
}

namespace {

namespace fs = std::filesystem;

constexpr int batches = 5;
constexpr int small_calls = 40;
constexpr index_t state_bytes = index_t{8} << 20;  // on each rank

/// Returns the seconds of one of `calls` calls in the fastest batch, as the slowest rank sees them.
double seconds_of(Collectives& comm, int calls, double patience,
                  const std::function<void()>& work) {
  double best = std::numeric_limits<double>::max();
  for (int batch = 0; batch == 0 || (batch < batches && patience > 0); ++batch) {
    comm.barrier();
    const auto start = std::chrono::steady_clock::now();
    for (int call = 0; call < calls; ++call) work();
    const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - start;
    const double seconds = largest(comm, spent.count());
    best = std::min(best, seconds / calls);
    patience -= seconds;
  }
  return best;
}

/// A folder of the job's own that goes away with everything in it. For rank 0.
class ScratchFolder {
 public:
  explicit ScratchFolder(fs::path path) : path_(std::move(path)) { make_output_directory(path_); }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  ~ScratchFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }

 private:
  fs::path path_;
};

std::unique_ptr<ScratchFolder> make_scratch(Collectives& comm, const fs::path& folder) {
  std::unique_ptr<ScratchFolder> made;
  agree(comm, [&] {
    if (comm.rank() == 0) made = std::make_unique<ScratchFolder>(folder);
  });
  return made;
}

// Pages of the program, its libraries and their tables that only a whole run touches, as measured
// on x86-64: what a run of one sample has beyond the rest of the plan.
constexpr index_t later_code = index_t{9} << 20;

fs::path folder_in(const fs::path& scratch) { return scratch / "quip-calibration"; }

/// Returns the resident memory of this process now.
index_t resident_memory() {
  std::ifstream stream("/proc/self/statm");
  index_t virtual_pages = 0;
  index_t resident_pages = 0;
  stream >> virtual_pages >> resident_pages;
  return stream ? resident_pages * ::sysconf(_SC_PAGESIZE) : peak_memory();
}

}  // namespace

index_t measure_baseline(Collectives& comm, const PlannedJob& job, int threads,
                         const fs::path& scratch) {
  const auto folder = make_scratch(comm, folder_in(scratch));
  agree(comm, [&] {
    const auto name = fmt::format("rank_{}.h5", comm.rank());
    static_cast<void>(create_rest_file(folder_in(scratch) / name, {{"x", DType::f32, {1}}}));
    // Each thread's BLAS keeps room for the pieces of a product.
    const index_t hidden = job.model.family->config().hidden;
    const index_t wide = std::min<index_t>(job.model.family->config().intermediate, 4096);
#pragma omp parallel num_threads(threads)
    {
      const Matrix<float> x(256, hidden, 1.0F);
      const Matrix<float> w(wide, hidden, 1.0F);
      Matrix<float> y(256, wide);
      gemm(Transpose::no, Transpose::yes, 1.0F, x.cview(), w.cview(), 0.0F, y.view());
    }
  });
  return static_cast<index_t>(largest(comm, static_cast<double>(resident_memory()))) + later_code;
}

void measure_links(Collectives& comm, index_t order, Rates& rates, double patience) {
  if (comm.size() == 1) return;
  const index_t triangle = order * (order + 1) / 2 * index_t{sizeof(double)};
  const index_t large_bytes = std::min(staged_bytes, triangle);
  float vote = 0;
  std::array<std::byte, 8> word{};
  std::vector<double> sums(at(large_bytes) / sizeof(double), 1.0);
  const std::span<std::byte> bytes = std::as_writable_bytes(std::span(sums));
  std::vector<std::byte> few(at(8 * comm.size()));
  const std::vector<index_t> small_shares = share_offsets(8 * comm.size(), comm.size());
  const std::vector<index_t> large_shares = share_offsets(large_bytes, comm.size());
  const auto measure = [&](Exchange kind, const std::function<void()>& small,
                           const std::function<void()>& large) {
    Link& link = rates.links[to_string(kind)];
    link.latency = seconds_of(comm, small_calls, patience, small);
    const double seconds = seconds_of(comm, 1, patience, large);
    link.bandwidth = transferred_bytes(kind, static_cast<double>(large_bytes), comm.size()) /
                     std::max(seconds - link.latency, 1e-6);
  };
  measure(
      Exchange::reduce, [&] { comm.all_reduce_max(std::span(&vote, 1)); },
      [&] { comm.all_reduce_sum(sums); });
  measure(
      Exchange::broadcast, [&] { comm.broadcast_bytes(word, 0); },
      [&] { comm.broadcast_bytes(bytes, 0); });
  measure(
      Exchange::gather, [&] { comm.all_gather_bytes(few, small_shares); },
      [&] { comm.all_gather_bytes(bytes, large_shares); });
}

void measure_files(Collectives& comm, const PlannedJob& job, const fs::path& scratch, Rates& rates,
                   double patience) {
  const fs::path folder = folder_in(scratch);
  const auto made = make_scratch(comm, folder);
  rates.durable_seconds = seconds_of(comm, 1, patience, [&] {
    agree(comm, [&] {
      if (comm.rank() == 0) write_text(folder / "small", std::string(4096, 'x'));
    });
  });
  const index_t width = job.model.family->config().hidden;
  const index_t sample = job.length * width * static_cast<index_t>(sizeof(float));
  const index_t each = std::max<index_t>(1, state_bytes / sample);
  const StateShape shape{each * comm.size(), job.length, width};
  const std::vector<float> values(at(job.length * width), 1.0F);
  StateEntry entry;
  const double writing = seconds_of(comm, 1, patience, [&] {
    entry =
        write_state_file(comm, folder, 1, shape, share_of(shape.samples, comm.rank(), comm.size()),
                         [&](index_t /*i*/, std::span<float> out) {
                           std::copy(values.begin(), values.end(), out.begin());
                         });
  });
  const auto bytes = static_cast<double>(each * sample);
  rates.write_bandwidth = bytes / std::max(writing - rates.durable_seconds, 0.1 * writing);
  const double reading = seconds_of(comm, 1, patience, [&] {
    agree(comm, [&] {
      const File file = File::open_read(folder / entry.file);
      std::vector<std::byte> raw(at(sample));
      std::vector<float> out(raw.size() / 2);
      for (index_t i = 0; i < each; ++i) {
        file.read_at(raw, entry.offset + (comm.rank() * each + i) * sample);
        to_float(DType::bf16, raw, out);
      }
    });
  });
  rates.read_bandwidth = bytes / reading;
}

}  // namespace quip::plan
