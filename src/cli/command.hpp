// Option parsing, help and one way to fail, for all subcommands.
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
#include "quip/model/hub_cache.hpp"

namespace quip::cli {

/// A mistake on the command line: every rank sees the same one, rank 0 reports it.
class UsageError : public Error {
 public:
  using Error::Error;
};

namespace po = boost::program_options;

/// Returns the semantics of an option whose text goes into `value`, a string or a path.
template <typename Text>
[[nodiscard]] auto* text(Text& value, const char* value_name) {
  const auto take = [&value](const std::string& given) { value = given; };
  return po::value<std::string>()->value_name(value_name)->notifier(take);
}

/// The same for a model: OWNER/NAME becomes the directory that the local cache of the Hub has of
/// it.
template <typename Text>
[[nodiscard]] auto* model_directory(Text& value, const char* value_name) {
  const auto take = [&value](const std::string& given) {
    value = find_model_directory(given).string();
  };
  return po::value<std::string>()->value_name(value_name)->notifier(take);
}

/// Makes `take` read the value from its text. A default is read, too, so that what --help shows may
/// be typed. Errors of `take` are thrown again with `option` and the text before them.
[[nodiscard]] po::typed_value<std::string>* value_of(
    const std::string& option, const char* value_name,
    const std::function<void(const std::string&)>& take);

/// Reads a number of `least` or more, or `word`, which is the default and makes it 0.
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
  /// True if it runs on several ranks.
  [[nodiscard]] virtual bool parallel() const { return true; }
  [[nodiscard]] std::string help() const;
  /// Parses the command line, then --config FILE for what it leaves open. Returns false when help
  /// was asked for. Throws UsageError.
  [[nodiscard]] bool parse(const std::vector<std::string>& arguments);
  /// True if the option was given, on the command line or in the configuration file.
  [[nodiscard]] bool given(const std::string& option) const;
  static constexpr const char* stall_timeout_option = "stall-timeout";
  /// Returns the seconds without progress after which a parallel command is given up; 0: never.
  [[nodiscard]] double stall_timeout() const;
  /// Throws UsageError for options that contradict each other; called by `parse`.
  virtual void check() {}
  /// Does the work; collective if parallel(). Returns the exit status.
  virtual int run(Collectives& comm, int node_size) = 0;

 protected:
  /// Returns what was given for options that `wanted` declares too, as it would be typed.
  [[nodiscard]] std::vector<std::string> given_again(const po::options_description& wanted) const;
  void read_config_file();

  po::options_description options_;
  po::positional_options_description positional_;
  po::variables_map values_;

 private:
  /// Adds to the parsed options; those of a file must not repeat what was typed.
  void remember(const po::parsed_options& parsed);

  std::string name_;
  std::string summary_;
  std::vector<po::option> parsed_;
};

std::unique_ptr<Command> make_quantize_command();
std::unique_ptr<Command> make_quantize_layer_command();
std::unique_ptr<Command> make_eval_command();
std::unique_ptr<Command> make_eval_tasks_command();
std::unique_ptr<Command> make_inspect_command();
std::unique_ptr<Command> make_export_command();
std::unique_ptr<Command> make_plan_command();

}  // namespace quip::cli
