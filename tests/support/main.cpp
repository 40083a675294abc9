// Runs the tests of the files named on the command line, or all.
#include "support/of_sources.hpp"
#include <gmock/gmock.h>

int main(int argc, char** argv) {
  testing::InitGoogleMock(&argc, argv);
  quip::test::select_tests_of_sources(argc, argv);
  return RUN_ALL_TESTS();
}
