#include <chrono>
#include <cmath>

#include "command.hpp"
#include "layer_arguments.hpp"
#include "pipeline/layer_survey.hpp"
#include "run_arguments.hpp"
#include <nlohmann/json.hpp>

#include "quip/io/matrix_file.hpp"
#include "quip/linalg/blas.hpp"
#include "quip/pipeline/report.hpp"
#include "quip/pipeline/round_layer.hpp"
#include "quip/store/packed_writer.hpp"

namespace quip::cli {
namespace {

class QuantizeLayerCommand final : public Command {
 public:
  QuantizeLayerCommand()
      : Command("quantize-layer",
                "Quantize one weight matrix with one Hessian; print its losses.") {
    options_.add_options()("weights", text(weights_, "FILE")->required(),
                           "W [outputs x inputs]: FILE.npy or FILE.h5:DATASET");
    options_.add_options()("hessian", text(hessian_, "FILE")->required(),
                           "H [inputs x inputs], likewise");
    options_.add_options()("name", text(name_, "NAME")->default_value("layer"),
                           "the layer's name: with --seed it settles the random transforms");
    arguments_.declare(options_);
    options_.add_options()("json", po::bool_switch(&json_), "print JSON");
    run_.declare(options_);
  }

  [[nodiscard]] bool parallel() const override { return false; }

  void check() override { layer_ = arguments_.options(*this); }

  int run(Collectives& comm, int node_size) override {
    run_.use_threads(node_size);
    use_one_blas_thread();
    const Matrix<double> w = read_matrix(weights_);
    Matrix<double> h = read_matrix(hessian_);
    check_hessian(w, h);
    const LinearSpec spec{.name = name_, .type = {}, .rows = w.rows(), .cols = w.cols()};
    const std::string note = note_on_groups({{spec, layer_}});
    if (!note.empty()) fmt::print(stderr, "quip: {}\n", note);
    Matrix<float> single(w.rows(), w.cols());
    for (index_t i = 0; i < w.size(); ++i) single.data()[i] = static_cast<float>(w.data()[i]);

    const auto start = std::chrono::steady_clock::now();
    const PreparedLayer prepared = prepare_layer(single.cview(), std::move(h), layer_, name_);
    const StoredLayer stored = round_layer(comm, name_, single.cview(), prepared, layer_);
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    print(stored, elapsed.count());
    return EXIT_SUCCESS;
  }

 private:
  void check_hessian(const Matrix<double>& w, const Matrix<double>& h) const {
    if (h.rows() != h.cols() || h.cols() != w.cols()) {
      fail(
          "--hessian {}: {} x {}, but --weights {} has {} inputs: H must be square, one row an "
          "input",
          hessian_, h.rows(), h.cols(), weights_, w.cols());
    }
    double largest = 0;
    for (index_t i = 0; i < h.size(); ++i) largest = std::max(largest, std::abs(h.data()[i]));
    for (index_t i = 0; i < h.rows(); ++i) {
      for (index_t j = 0; j < i; ++j) {
        // fp32 sums of products in two orders differ by less than this.
        if (std::abs(h(i, j) - h(j, i)) > 1e-4 * largest) {
          fail("--hessian {}: not symmetric at ({}, {})", hessian_, i, j);
        }
      }
    }
  }

  void print(const StoredLayer& stored, double seconds) const {
    nlohmann::json out = to_json(stored);
    out["digest"] = digest_of(stored.layer);
    out["seconds"] = seconds;
    if (json_) {
      fmt::print("{}\n", out.dump());
      return;
    }
    fmt::print("{}", settings_table(LayerArguments::settings(layer_)));
    for (const auto& [key, value] : out.items()) {
      fmt::print("  {:<20} {}\n", key, value.is_string() ? value.get<std::string>() : value.dump());
    }
  }

  std::string weights_;
  std::string hessian_;
  std::string name_;
  LayerArguments arguments_;
  LayerOptions layer_;
  bool json_ = false;
  RunArguments run_;
};

}  // namespace

std::unique_ptr<Command> make_quantize_layer_command() {
  return std::make_unique<QuantizeLayerCommand>();
}

}  // namespace quip::cli
