#include "quip/calib/token_set.hpp"

#include <algorithm>

#include "io/hdf5.hpp"

#include "quip/core/digest.hpp"
#include "quip/core/error.hpp"
#include "quip/core/usage.hpp"

namespace quip {
namespace {

constexpr const char* dataset_name = "input_ids";
constexpr const char* mask_name = "attention_mask";
constexpr index_t digest_tokens = index_t{1} << 20;  // read at a time

H5Dataset open_tokens(const H5File& file, const std::string& where) {
  if (!has_link(file.get(), dataset_name, where)) {
    fail("{}: has no dataset {}; expected int32 [samples, length]", where, dataset_name);
  }
  return open_dataset(file.get(), dataset_name, where);
}

void require_int32(const H5Dataset& dataset, const std::string& where) {
  const H5Type type(H5Dget_type(dataset.get()), "H5Dget_type", where);
  if (H5Tget_class(type.get()) != H5T_INTEGER || H5Tget_size(type.get()) != 4 ||
      H5Tget_sign(type.get()) != H5T_SGN_2) {
    fail("{}: dataset {} is not of type int32; write it again as int32", where, dataset_name);
  }
}

/// Returns rows [first, first + count) of an open token dataset.
std::vector<std::int32_t> read_rows(const H5Dataset& dataset, index_t first, index_t count,
                                    index_t length, const std::string& where) {
  const hsize_t start[2] = {static_cast<hsize_t>(first), 0};
  const hsize_t extent[2] = {static_cast<hsize_t>(count), static_cast<hsize_t>(length)};
  const H5Space file_space(H5Dget_space(dataset.get()), "H5Dget_space", where);
  check(H5Sselect_hyperslab(file_space.get(), H5S_SELECT_SET, start, nullptr, extent, nullptr),
        "H5Sselect_hyperslab", where);
  const H5Space memory_space(H5Screate_simple(2, extent, nullptr), "H5Screate_simple", where);
  std::vector<std::int32_t> tokens(at(count * length));
  check(H5Dread(dataset.get(), H5T_NATIVE_INT32, memory_space.get(), file_space.get(), H5P_DEFAULT,
                tokens.data()),
        "H5Dread", where);
  UsageMeter::current().add_read(count * length * static_cast<index_t>(sizeof(tokens[0])));
  return tokens;
}

/// Throws Error for a text in place of a token set, with the command that makes one of it.
void require_hdf5(const std::filesystem::path& file) {
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(file, ignored) || H5Fis_hdf5(file.c_str()) > 0) return;
  const std::string extension = file.extension().string();
  const bool lines = extension == ".jsonl" || extension == ".json";
  if (!lines && extension != ".txt") {
    fail("{}: not an HDF5 file; jobs/tokenize.py makes token sets of .txt and .jsonl files",
         file.string());
  }
  fail(
      "{0}: a text, not a token set; make one: .venv/bin/python jobs/tokenize.py {0}{1} --model "
      "MODEL --out {2}",
      file.string(), lines ? " --field text" : "",
      std::filesystem::path(file).replace_extension(".h5").filename().string());
}

/// Throws Error if the set masks a token: all are attended to and predicted here.
void require_no_padding(const H5File& file, index_t samples, index_t length,
                        const std::string& where) {
  if (!has_link(file.get(), mask_name, where)) return;
  const H5Dataset mask = open_dataset(file.get(), mask_name, where);
  if (shape_of(mask, where) != std::vector<index_t>{samples, length}) {
    fail("{}: dataset {} does not have the shape of {}", where, mask_name, dataset_name);
  }
  const index_t step = std::max<index_t>(1, digest_tokens / length);
  for (index_t first = 0; first < samples; first += step) {
    const auto rows = read_rows(mask, first, std::min(step, samples - first), length, where);
    const auto masked = std::ranges::find(rows, 0);
    if (masked == rows.end()) continue;
    fail(
        "{}: {} leaves out tokens of sample {}; quip takes sequences of full length only, without "
        "padding",
        where, mask_name, first + (masked - rows.begin()) / length);
  }
}

}  // namespace

TokenSet::TokenSet(const std::filesystem::path& file) : file_(file) {
  const std::string where = file.string();
  require_hdf5(file);
  const H5File source = open_hdf5(file);
  const H5Dataset dataset = open_tokens(source, where);
  require_int32(dataset, where);
  const std::vector<index_t> shape = shape_of(dataset, where);
  if (shape.size() != 2) {
    fail("{}: dataset {} has {} dimensions; expected 2, [samples, length]", where, dataset_name,
         shape.size());
  }
  samples_ = shape[0];
  length_ = shape[1];
  if (samples_ == 0) fail("{}: dataset {} is empty", where, dataset_name);
  if (length_ < 2) {
    fail("{}: sequences have length {}; at least 2 tokens are needed", where, length_);
  }
  require_no_padding(source, samples_, length_, where);
}

std::vector<std::int32_t> TokenSet::read(index_t first, index_t count, index_t vocabulary) const {
  const std::string where = file_.string();
  if (first < 0 || count < 0 || first > samples_ - count) {
    fail("{}: samples {} … {} were asked for; it has {}", where, first, first + count - 1,
         samples_);
  }
  const H5File source = open_hdf5(file_);
  auto tokens = read_rows(open_tokens(source, where), first, count, length_, where);
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || tokens[i] >= vocabulary) {
      const auto position = static_cast<index_t>(i);
      fail(
          "{}: sample {}, position {}: token {} is outside the vocabulary of {}; the tokens were "
          "made with another tokenizer",
          where, first + position / length_, position % length_, tokens[i], vocabulary);
    }
  }
  return tokens;
}

std::string TokenSet::digest(index_t samples) const {
  const std::string where = file_.string();
  if (samples < 0 || samples > samples_) {
    fail("{}: {} samples were asked for; it has {}", where, samples, samples_);
  }
  const H5File source = open_hdf5(file_);
  const H5Dataset dataset = open_tokens(source, where);
  Digest digest;
  digest.update(fmt::format("{}x{}\n", samples, length_));
  const index_t step = std::max<index_t>(1, digest_tokens / length_);
  for (index_t first = 0; first < samples; first += step) {
    const index_t count = std::min(step, samples - first);
    const auto tokens = read_rows(dataset, first, count, length_, where);
    digest.update(std::as_bytes(std::span(tokens)));
  }
  return digest.hex();
}

}  // namespace quip
