#include "quip/pipeline/export.hpp"

#include "command.hpp"
#include "run_arguments.hpp"

#include "quip/store/packed_model.hpp"

namespace quip::cli {
namespace {

class ExportCommand final : public Command {
 public:
  ExportCommand() : Command("export", "Write a packed model as an ordinary checkpoint.") {
    const auto check = [](const std::string& text) {
      if (text != "bf16") fail("must be bf16");
    };
    options_.add_options()("packed", text(packed_, "DIR")->required(), "packed model");
    options_.add_options()("model", text(model_, "DIR")->required(),
                           "the checkpoint it was made from: config and tokenizer are copied");
    options_.add_options()("out", text(out_, "DIR")->required(), "output directory: new or empty");
    options_.add_options()("format", value_of("format", "NAME", check)->default_value("bf16"),
                           "bf16: a Hugging Face directory of bfloat16 safetensors");
    run_.declare_for_ranks(options_);
    run_.declare(options_);
  }

  int run(Collectives& comm, int node_size) override {
    run_.use_threads(node_size);
    std::unique_ptr<PackedModel> packed;
    agree(comm, [&] { packed = std::make_unique<PackedModel>(packed_); });
    export_checkpoint(comm, *packed, model_, out_);
    if (comm.rank() == 0) fmt::print("written to {}\n", out_);
    return EXIT_SUCCESS;
  }

 private:
  std::string packed_;
  std::string model_;
  std::string out_;
  RunArguments run_;
};

}  // namespace

std::unique_ptr<Command> make_export_command() { return std::make_unique<ExportCommand>(); }

}  // namespace quip::cli
