// JSON that others wrote.
#include "quip/io/json.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "quip/core/error.hpp"

namespace quip::json_test {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;

std::string nested(std::size_t depth) {
  return std::string(depth, '[') + "7" + std::string(depth, ']');
}

std::string rejection(const std::string& text) {
  try {
    (void)parse_json(text, "some/file.json");
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(Json, ParsesWhatIsJson) {
  EXPECT_EQ(parse_json(R"( {"a": [1, null, "ü"]} )", "x"), (json{{"a", {1, nullptr, "ü"}}}));
  EXPECT_EQ(parse_json("3", "x"), 3);
  EXPECT_EQ(parse_json<nlohmann::ordered_json>(R"({"b": 1, "a": 2})", "x").dump(),
            R"({"b":1,"a":2})");
}

TEST(Json, NamesTheFileThatIsNoJson) {
  for (const char* text : {"", "{", "[1,]", "nul", "\"\xff\"", "1 2"}) {
    EXPECT_THAT(rejection(text), HasSubstr("some/file.json: not valid JSON")) << text;
  }
}

// Destroying, copying and printing a value recurse: a megabyte of brackets would end the process.
TEST(Json, RefusesDeepNesting) {
  EXPECT_EQ(parse_json(nested(64), "x").size(), 1U);
  for (const std::size_t depth : {66, 1'000'000}) {
    EXPECT_THAT(rejection(nested(depth)), HasSubstr("some/file.json: nests more than 64"));
  }
}

TEST(Json, MessagesStayShort) {
  const std::string letters(100'000, 'x');
  EXPECT_LT(rejection("\"" + letters).size(), 300U);
  EXPECT_LT(shown(json(letters)).size(), 200U);
  EXPECT_EQ(shown(json{1, 2}), "[1,2]");
  // Never half of a character: "ü" is two bytes.
  for (const std::size_t before : {158, 159, 160, 161}) {
    const std::string cut = shortened(std::string(before, 'x') + std::string(50, '-') + "ü");
    EXPECT_TRUE(cut.ends_with(" …")) << cut;
  }
  const std::string cut = shortened(std::string(159, 'x') + "üü");
  EXPECT_EQ(cut, std::string(159, 'x') + " …");
}

TEST(Json, NaturalNumbersAreNotConverted) {
  EXPECT_EQ(natural(json::parse("0")), 0);
  EXPECT_EQ(natural(json(std::int64_t{5})), 5);  // signed, as programs make them
  EXPECT_EQ(natural(json::parse("9223372036854775807")), 9223372036854775807);
  for (const char* text : {"-1", "1.0", "1e3", "1e300", "9223372036854775808",
                           "18446744073709551615", "true", "null", "\"1\"", "[1]"}) {
    EXPECT_EQ(natural(json::parse(text)), std::nullopt) << text;
  }
}

}  // namespace
}  // namespace quip::json_test
