// Many test files make up one program, which is compiled and linked faster than one program each. A
// run takes the tests of the files it names.
#pragma once

#include <cstddef>
#include <filesystem>
#include <stdexcept>
#include <string>

#include <gtest/gtest.h>

namespace quip::test {

/// Restricts the run to tests in the files whose names, without folder and extension, are the
/// arguments left by InitGoogleTest; without arguments every test runs. --gtest_filter counts only
/// then.
/// @throws std::runtime_error if a file has no test: a run of nothing must not pass.
inline void select_tests_of_sources(int argc, char** argv) {
  if (argc < 2) return;
  std::string filter;
  for (int argument = 1; argument < argc; ++argument) {
    const std::size_t before = filter.size();
    const auto& all = *testing::UnitTest::GetInstance();
    for (int s = 0; s < all.total_test_suite_count(); ++s) {
      const auto& suite = *all.GetTestSuite(s);
      for (int t = 0; t < suite.total_test_count(); ++t) {
        const auto& test = *suite.GetTestInfo(t);
        if (std::filesystem::path(test.file()).stem() == argv[argument])
          filter += std::string(suite.name()) + "." + test.name() + ":";
      }
    }
    if (filter.size() == before)
      throw std::runtime_error(std::string("no test in a file called ") + argv[argument]);
  }
  testing::GTEST_FLAG(filter) = filter;
}

}  // namespace quip::test
