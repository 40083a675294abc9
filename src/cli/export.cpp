#include "quip/pipeline/export.hpp"

#include "command.hpp"
#include "run_arguments.hpp"

#include "quip/store/packed_model.hpp"

namespace quip::cli {
namespace {

class ExportCommand final : public Command {
 public:
  ExportCommand() : Command("export", "Write a packed model as a checkpoint for other programs.") {
    const auto take_format = [this](const std::string& text) {
      export_.format = &export_format(text);
    };
    const auto take_bits = [this](const std::string& text) {
      const auto parse = [](const std::string& digits) {
        return parse_number(digits, 1, trellis::max_bits);
      };
      export_.head_bits = parse_or(text, "keep", parse).value_or(0);
    };
    options_.add_options()("packed", text(packed_, "DIR")->required(), "packed model");
    options_.add_options()("model", model_directory(model_, "DIR")->required(),
                           "the checkpoint it was made from: config and tokenizer are copied");
    options_.add_options()("out", text(out_, "DIR")->required(), "output directory: new or empty");
    std::string formats;
    for (const ExportFormat* format : export_formats()) {
      formats +=
          fmt::format("{}{}: {}", formats.empty() ? "" : "; ", format->name(), format->help());
    }
    options_.add_options()(
        "format",
        value_of("format", "NAME", take_format)->default_value(export_formats().front()->name()),
        formats.c_str());
    options_.add_options()("head-bits",
                           value_of("head-bits", "N", take_bits)->default_value("keep"),
                           "exl3: bits (1 to 8) to which the output head is quantized, without "
                           "calibration; keep: it stays as it is");
    run_.declare_for_ranks(options_);
    run_.declare(options_);
  }

  void check() override {
    if (export_.head_bits > 0 && export_.format->name() != std::string_view("exl3")) {
      throw UsageError("--head-bits belongs to --format exl3: add that or leave it out");
    }
  }

  int run(Collectives& comm, int node_size) override {
    run_.use_threads(node_size);
    std::unique_ptr<PackedModel> packed;
    agree(comm, [&] { packed = std::make_unique<PackedModel>(packed_); });
    export_checkpoint(comm, *packed, model_, out_, export_);
    if (comm.rank() == 0) fmt::print("written to {}\n", out_);
    return EXIT_SUCCESS;
  }

 private:
  std::string packed_;
  std::string model_;
  std::string out_;
  ExportOptions export_;
  RunArguments run_;
};

}  // namespace

std::unique_ptr<Command> make_export_command() { return std::make_unique<ExportCommand>(); }

}  // namespace quip::cli
