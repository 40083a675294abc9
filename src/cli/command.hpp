// What the subcommands share: option parsing, help, and one way to fail.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <boost/program_options.hpp>

#include "quip/comm/collectives.hpp"
#include "quip/comm/stall_watch.hpp"
#include "quip/core/error.hpp"

namespace quip::cli {

/// A mistake on the command line: every rank sees the same one, rank 0 reports it.
class UsageError : public Error {
 public:
  using Error::Error;
};

/// Was an option given (on the command line or in the configuration file)?
using Given = std::function<bool(const std::string&)>;

/// A subcommand: its options, and what it does with them.
class Command {
 public:
  Command(std::string name, std::string summary);
  virtual ~Command() = default;
  Command(const Command&) = delete;
  Command& operator=(const Command&) = delete;

  [[nodiscard]] const std::string& name() const { return name_; }
  [[nodiscard]] const std::string& summary() const { return summary_; }
  /// Does it run on several ranks?
  [[nodiscard]] virtual bool parallel() const { return true; }
  [[nodiscard]] std::string help() const;
  /// Command line first, then --config FILE for what it leaves open. Throws UsageError.
  /// Returns false when help was asked for.
  [[nodiscard]] bool parse(const std::vector<std::string>& arguments);
  static constexpr const char* stall_timeout_option = "stall-timeout";
  /// Seconds without progress after which a parallel command is given up; 0: never.
  [[nodiscard]] double stall_timeout() const;
  /// Throws UsageError for options that contradict each other; called by `parse`.
  virtual void check() {}
  /// Does the work; collective if parallel(). Returns the exit status.
  virtual int run(Collectives& comm, int node_size) = 0;

 protected:
  /// Was the option given (on the command line or in the configuration file)?
  [[nodiscard]] bool given(const std::string& option) const;
  /// The same, for classes that declare options of their own.
  const Given given_ = [this](const std::string& option) { return given(option); };
  /// What was given for options that `wanted` declares too, as it would be typed.
  [[nodiscard]] std::vector<std::string> given_again(
      const boost::program_options::options_description& wanted) const;
  void read_config_file();

  boost::program_options::options_description options_;
  boost::program_options::positional_options_description positional_;
  boost::program_options::variables_map values_;

 private:
  /// Adds to the parsed options; those of a file must not repeat what was typed.
  void remember(const boost::program_options::parsed_options& parsed);

  std::string name_;
  std::string summary_;
  std::vector<boost::program_options::option> parsed_;
};

std::unique_ptr<Command> make_quantize_command();
std::unique_ptr<Command> make_quantize_layer_command();
std::unique_ptr<Command> make_eval_command();
std::unique_ptr<Command> make_eval_tasks_command();
std::unique_ptr<Command> make_inspect_command();
std::unique_ptr<Command> make_export_command();
std::unique_ptr<Command> make_plan_command();

}  // namespace quip::cli
