#include "quip/core/digest.hpp"

#include <string>

#include <gtest/gtest.h>

namespace quip::digest_test {
namespace {

std::string digest_of_text(const std::string& text) {
  return digest_of(std::as_bytes(std::span(text)));
}

// Expected values: `xxhsum -H2`, the reference command-line tool of xxHash.
TEST(Digest, MatchesTheReferenceTool) {
  EXPECT_EQ(digest_of_text(""), "99aa06d3014798d86001c324468d497f");
  EXPECT_EQ(digest_of_text("quip"), "3ca0836c4e3976745c894a53e7faff03");
  EXPECT_EQ(digest_of_text(std::string(1000, 'a')), "b01da365eddaa29cb3e7af627147db7c");
}

TEST(Digest, DoesNotDependOnHowTheBytesArrive) {
  const std::string text(5000, 'x');
  for (const std::size_t step : {1UL, 7UL, 255UL, 256UL, 1024UL, 4999UL}) {
    Digest digest;
    for (std::size_t i = 0; i < text.size(); i += step) digest.update(text.substr(i, step));
    EXPECT_EQ(digest.hex(), digest_of_text(text)) << step;
  }
}

TEST(Digest, CanBeAskedInBetween) {
  Digest digest;
  digest.update("qu");
  EXPECT_EQ(digest.hex(), digest_of_text("qu"));
  digest.update("ip");
  EXPECT_EQ(digest.hex(), digest_of_text("quip"));
}

TEST(Digest, OfNothingIsThatOfTheEmptyText) { EXPECT_EQ(Digest().hex(), digest_of_text("")); }

TEST(Digest, SeesEveryBit) {
  const std::string text(300, 'y');
  for (std::size_t i = 0; i < text.size(); i += 13) {
    std::string changed = text;
    changed[i] = static_cast<char>(changed[i] ^ 1);
    EXPECT_NE(digest_of_text(changed), digest_of_text(text)) << i;
  }
}

}  // namespace
}  // namespace quip::digest_test
