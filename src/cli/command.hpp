// What the subcommands share: option parsing, help, and one way to fail.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/names.hpp"
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

/// A value that `take` reads from its text. A default is read, too: what --help shows may be typed.
/// What `take` throws is thrown again with `option` and the text before it.
[[nodiscard]] boost::program_options::typed_value<std::string>* value_of(
    const std::string& option, const char* value_name,
    const std::function<void(const std::string&)>& take);

/// A number of `least` or more, or `word`, which is the default and makes it 0.
template <typename Number>
[[nodiscard]] auto* number_or(const char* word, const std::string& option, const char* value_name,
                              Number& number, Number least = 1) {
  const auto take = [word, least, &number](const std::string& text) {
    const auto parse = [least](const std::string& digits) { return parse_number(digits, least); };
    number = parse_or(text, word, parse).value_or(0);
  };
  return value_of(option, value_name, take)->default_value(word);
}

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
  /// True if the option was given, on the command line or in the configuration file.
  [[nodiscard]] bool given(const std::string& option) const;
  static constexpr const char* stall_timeout_option = "stall-timeout";
  /// Seconds without progress after which a parallel command is given up; 0: never.
  [[nodiscard]] double stall_timeout() const;
  /// Throws UsageError for options that contradict each other; called by `parse`.
  virtual void check() {}
  /// Does the work; collective if parallel(). Returns the exit status.
  virtual int run(Collectives& comm, int node_size) = 0;

 protected:
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
