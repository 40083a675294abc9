// Options that have no meaning together: refused by name on the command line, in a configuration
// file and in --override; and the values that are none.
#include <fstream>
#include <regex>
#include <set>
#include <utility>

#include "cli/command.hpp"
#include "support/store_fixture.hpp"
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include "quip/quant/options/overrides.hpp"

namespace quip::command_line_test {
namespace {

using Setting = std::pair<std::string, std::string>;  ///< "on" as value: a switch
using Settings = std::vector<Setting>;

/// What `quip quantize` says to these arguments; empty if it takes them.
std::string quantize_says(std::vector<std::string> arguments) {
  const std::vector<std::string> inputs = {"--model", "m", "--tokens", "t", "--out", "o"};
  arguments.insert(arguments.begin(), inputs.begin(), inputs.end());
  try {
    EXPECT_TRUE(cli::make_quantize_command()->parse(arguments));
  } catch (const cli::UsageError& error) {
    return error.what();
  }
  return {};
}

std::string as_flags(const Settings& settings) {
  std::vector<std::string> arguments;
  for (const auto& [name, value] : settings) {
    arguments.push_back("--" + name);
    if (value != "on") arguments.push_back(value);
  }
  return quantize_says(arguments);
}

std::string as_file(const Settings& settings) {
  const test::TemporaryFolder folder;
  const auto file = folder.path() / "run.ini";
  std::ofstream stream(file);
  for (const auto& [name, value] : settings) stream << name << '=' << value << '\n';
  stream.close();
  return quantize_says({"--config", file.string()});
}

/// The rule is well formed; what it makes of a layer is refused.
std::string as_override(const Settings& settings) {
  std::string rule = "q_proj:";
  for (const auto& [name, value] : settings) {
    rule += fmt::format("{}{}={}", rule.back() == ':' ? "" : ",", name, value);
  }
  EXPECT_EQ(quantize_says({"--override", rule}), "");
  Overrides overrides;
  overrides.add(rule);
  EXPECT_NO_THROW(static_cast<void>(overrides.apply({}, "layers.0.k_proj"))) << rule;
  std::string says =
      test::message_of([&] { static_cast<void>(overrides.apply({}, "layers.0.q_proj")); });
  EXPECT_NE(says.find("--override '" + rule + "': layer layers.0.q_proj: "), std::string::npos)
      << says;
  return says;
}

struct Refusal {
  Settings settings;
  std::vector<std::string> named;
  friend std::ostream& operator<<(std::ostream& out, const Refusal& refusal) {
    for (const auto& [name, value] : refusal.settings) out << name << '=' << value << ' ';
    return out;
  }
};

class RefusedTogether : public testing::TestWithParam<Refusal> {
 protected:
  static void expect_named(const std::string& says) {
    for (const std::string& option : GetParam().named) {
      EXPECT_NE(says.find(option), std::string::npos) << option << " in: " << says;
    }
  }
};

TEST_P(RefusedTogether, OnTheCommandLine) { expect_named(as_flags(GetParam().settings)); }
TEST_P(RefusedTogether, InAConfigurationFile) { expect_named(as_file(GetParam().settings)); }
TEST_P(RefusedTogether, InAnOverride) { expect_named(as_override(GetParam().settings)); }

Refusal with_method(const Setting& option, const std::string& method) {
  return {{option, {"method", method}}, {"--" + option.first, "--method " + method}};
}

std::vector<Refusal> methods_refusals() {
  std::vector<Refusal> all;
  for (const char* method : {"nearest", "optq", "ldlq-rg", "greedy", "ldl-admm"}) {
    all.push_back(with_method({"order", "forward"}, method));
    all.push_back(with_method({"order", "backward"}, method));
  }
  for (const char* method : {"nearest", "ldlq", "ldlq-rg", "greedy", "ldl-admm"}) {
    all.push_back(with_method({"act-order", "on"}, method));
    all.push_back(
        {{{"grid", "minmax"}, {"group-size", "64"}, {"groups", "dynamic"}, {"method", method}},
         {"--groups dynamic", std::string("--method ") + method}});
  }
  for (const char* method : {"nearest", "optq"}) {
    all.push_back(with_method({"passes", "2"}, method));
    all.push_back(with_method({"passes", "0"}, method));
  }
  for (const char* method : {"greedy", "ldlq-rg"}) {
    all.push_back(with_method({"rounding", "stochastic"}, method));
  }
  all.push_back({{{"rounding", "stochastic"}, {"passes", "1"}}, {"--rounding", "--passes"}});
  all.push_back(with_method({"passes", "0"}, "greedy"));
  all.push_back(with_method({"passes", "1001"}, "ldlq-rg"));
  return all;
}
INSTANTIATE_TEST_SUITE_P(Methods, RefusedTogether, testing::ValuesIn(methods_refusals()));

const Setting minmax{"grid", "minmax"};
const Setting incoherent{"grid", "incoherent"};
const Setting optq{"method", "optq"};
const Setting dynamic{"groups", "dynamic"};
const Setting groups_of_64{"group-size", "64"};

INSTANTIATE_TEST_SUITE_P(
    Grids, RefusedTogether,
    testing::Values(Refusal{{minmax, {"rho", "2.4"}}, {"--grid minmax", "--rho"}},
                    Refusal{{incoherent, {"symmetric", "on"}},
                            {"--grid incoherent", "--symmetric"}},
                    Refusal{{{"symmetric", "on"}}, {"--processing incoherence", "--symmetric"}},
                    Refusal{{incoherent, groups_of_64}, {"--grid incoherent", "--group-size"}},
                    Refusal{{groups_of_64}, {"--processing incoherence", "--group-size"}},
                    Refusal{{minmax, {"group-size", "7"}}, {"--group-size 7", "8"}},
                    Refusal{{minmax, {"groups", "static"}}, {"--groups static", "--group-size"}},
                    Refusal{{minmax, optq, dynamic}, {"--groups dynamic", "--group-size"}},
                    Refusal{{minmax, optq, groups_of_64, dynamic, {"act-order", "on"}},
                            {"--groups dynamic", "--act-order"}},
                    Refusal{{minmax, optq, groups_of_64, dynamic, {"clamp", "pre"}},
                            {"--groups dynamic", "--clamp pre"}}));

// A rule that changes the method or the grid meets what the command line says of all layers; `auto`
// takes that back.
TEST(Override, MeetsTheOptionsOfAllLayers) {
  struct Meeting {
    LayerOptions base;
    const char* clashes;
    const char* mends;
    const char* named;
  };
  std::vector<Meeting> meetings(5);
  meetings[0] = {{}, "q:method=optq", "q:method=optq,passes=auto", "--passes"};
  meetings[0].base.passes = 3;
  meetings[1] = {{}, "q:method=optq", "q:method=optq,order=auto", "--order"};
  meetings[1].base.order = ColumnOrder::forward;
  meetings[2] = {{}, "q:grid=minmax", "q:grid=minmax,rho=auto", "--rho"};
  meetings[2].base.rho = 2.4;
  meetings[3] = {{}, "q:method=ldlq", "q:method=ldlq,act-order=off", "--act-order"};
  meetings[3].base.method = Method::optq;
  meetings[3].base.act_order = true;
  meetings[4] = {
      {}, "q:grid=incoherent", "q:grid=incoherent,group-size=row,symmetric=off", "--symmetric"};
  meetings[4].base.grid_kind = GridKind::minmax;
  meetings[4].base.symmetric = true;
  meetings[4].base.group_size = 64;
  for (const Meeting& meeting : meetings) {
    Overrides clashes;
    clashes.add(meeting.clashes);
    const std::string says =
        test::message_of([&] { static_cast<void>(clashes.apply(meeting.base, "q")); });
    EXPECT_NE(says.find(meeting.named), std::string::npos) << meeting.clashes << ": " << says;
    Overrides mends;
    mends.add(meeting.mends);
    EXPECT_NO_THROW(static_cast<void>(mends.apply(meeting.base, "q"))) << meeting.mends;
  }
}

// Rules are judged by what all of them make of a layer, not one by one.
TEST(Override, ALaterRuleMayMendAnEarlierOne) {
  Overrides overrides;
  overrides.add("proj:passes=2,method=optq");
  overrides.add("q_proj:method=greedy");
  EXPECT_EQ(overrides.apply({}, "q_proj").effective_passes(), 2);
  const std::string says =
      test::message_of([&] { static_cast<void>(overrides.apply({}, "k_proj")); });
  EXPECT_NE(says.find("--passes"), std::string::npos) << says;
}

TEST(CommandLine, OptionsOfTheCommandLineAloneAreRefusedTogether) {
  const std::vector<std::pair<Settings, std::vector<std::string>>> cases = {
      {{{"paper", "on"}, {"rho", "2"}}, {"--paper", "--rho"}},
      {{{"paper", "on"}, {"clamp", "feedback"}}, {"--paper", "--clamp"}},
  };
  for (const auto& [settings, named] : cases) {
    for (const std::string& says : {as_flags(settings), as_file(settings)}) {
      for (const std::string& option : named) {
        EXPECT_NE(says.find(option), std::string::npos) << option << " in: " << says;
      }
    }
  }
}

TEST(CommandLine, ValuesThatAreNoneNameTheirOption) {
  const Settings cases = {
      {"bits", "9"},         {"bits", "two"},         {"samples", "0"},     {"damp", "-0.5"},
      {"method", "magic"},   {"processing", "magic"}, {"rho", "-1"},        {"threads", "-2"},
      {"threads", "0"},      {"transform", "magic"},  {"grid", "magic"},    {"rescale", "maybe"},
      {"groups", "neither"}, {"group-size", "0"},     {"passes", "-1"},     {"order", "sideways"},
      {"rounding", "up"},    {"clamp", "never"},      {"progress", "loud"}, {"override", "x"}};
  for (const Setting& setting : cases) {
    const auto& [name, value] = setting;
    const std::string flags = as_flags({setting});
    EXPECT_NE(flags.find("--" + name), std::string::npos) << value << ": " << flags;
    const std::string file = as_file({setting});
    EXPECT_NE(file.find(name), std::string::npos) << value << ": " << file;
  }
}

// Scripts fill in all options: what --help shows as a default, "--threads arg (=auto)", may be
// typed.
TEST(CommandLine, DefaultsThatHelpShowsAreTaken) {
  const std::regex shown(R"(--([a-z-]+) \S+ \(=([^)]*)\))");
  using Line = std::vector<std::string>;
  const std::vector<std::pair<std::unique_ptr<cli::Command> (*)(), Line>> commands = {
      {cli::make_quantize_command, {"--model", "m", "--tokens", "t", "--out", "o"}},
      {cli::make_quantize_layer_command, {"--weights", "w", "--hessian", "h"}},
      {cli::make_eval_command, {"--model", "m", "--tokens", "t"}},
      {cli::make_eval_tasks_command, {"--model", "m", "--tasks", "t"}},
      {cli::make_inspect_command, {"--packed", "p"}},
      {cli::make_export_command, {"--packed", "p", "--model", "m", "--out", "o"}},
      {cli::make_plan_command, {"--model", "m"}}};
  std::set<std::string> seen;
  for (const auto& [make, inputs] : commands) {
    Line all = inputs;
    const std::string help = make()->help();
    for (std::sregex_iterator it(help.begin(), help.end(), shown), end; it != end; ++it) {
      all.insert(all.end(), {"--" + it->str(1), it->str(2)});
      seen.insert(it->str(1) + ' ' + it->str(2));
    }
    EXPECT_NO_THROW(EXPECT_TRUE(make()->parse(all))) << fmt::format("{}", fmt::join(all, " "));
  }
  for (const char* known :
       {"threads auto", "samples all", "length auto", "passes auto", "order auto", "group-size row",
        "rho auto", "damp 0.01", "ranks-per-node best"}) {
    EXPECT_TRUE(seen.contains(known)) << known;
  }
  EXPECT_EQ(as_flags({minmax, {"rho", "auto"}}), "");
  EXPECT_EQ(as_flags({{"method", "optq"}, {"order", "auto"}, {"passes", "auto"}}), "");
}

TEST(CommandLine, MessagesNameTheRealBounds) {
  const std::vector<std::pair<Setting, const char*>> cases = {
      {{"damp", "inf"}, "--damp inf: must be 0 to 1000000"},
      {{"damp", "1e300"}, "--damp 1e300: must be 0 to 1000000"},
      {{"damp", "nan"}, "--damp nan: must be 0 to 1000000"},
      {{"damp", "-1"}, "--damp -1: must be 0 to 1000000"},
      {{"rho", "1e7"}, "--rho 1e7: must be 1e-06 to 1000000 (or auto)"},
      {{"rho", "0"}, "--rho 0: must be 1e-06 to 1000000 (or auto)"},
      {{"threads", "0"}, "--threads 0: must be positive (or auto)"},
      {{"samples", "-3"}, "--samples -3: must be positive (or all)"},
      {{"wide", "-1"}, "--wide -1: must not be negative"},
      {{"seed", "-1"}, "--seed -1: '-1' is not a non-negative number"},
      {{"seed", "18446744073709551616"}, "must be 0 to 18446744073709551615"},
      {{"blocks", "3"}, "--blocks 3: must be FIRST:END"},
      {{"blocks", "3:3"}, "--blocks 3:3: must be FIRST:END"},
      {{"process-grid", "2"}, "--process-grid 2: '2' is not a grid of ranks"},
      {{"stall-timeout", "inf"}, "--stall-timeout inf: must be 0 to 1000000000"}};
  for (const auto& [setting, line] : cases) {
    const std::string says = as_flags({setting});
    EXPECT_NE(says.find(line), std::string::npos) << says;
  }
}

TEST(CommandLine, WhatGoesTogetherIsTaken) {
  const std::vector<Settings> cases = {
      {},
      {minmax, groups_of_64, optq, dynamic, {"symmetric", "on"}},
      {minmax, groups_of_64, optq, {"act-order", "on"}, {"groups", "static"}},
      {minmax, groups_of_64, optq, {"clamp", "pre"}},
      {minmax, groups_of_64, {"groups", "static"}, {"order", "forward"}, {"passes", "1"}},
      {{"paper", "on"}, {"processing", "baseline"}, {"method", "optq"}},
  };
  for (const Settings& settings : cases) {
    EXPECT_EQ(as_flags(settings), "");
    EXPECT_EQ(as_file(settings), "");
  }
}

// The command line wins over the file, also where only the file's options clash.
TEST(CommandLine, WinsOverTheConfigurationFile) {
  const test::TemporaryFolder folder;
  const auto file = folder.path() / "run.ini";
  std::ofstream(file) << "method=nearest\npasses=2\n";
  EXPECT_NE(quantize_says({"--config", file.string()}), "");
  EXPECT_EQ(quantize_says({"--config", file.string(), "--method", "greedy"}), "");
  std::ofstream(file) << "colour=red\n";
  const std::string says = quantize_says({"--config", file.string()});
  EXPECT_NE(says.find("run.ini"), std::string::npos) << says;
  EXPECT_NE(says.find("colour"), std::string::npos) << says;
}

}  // namespace
}  // namespace quip::command_line_test
