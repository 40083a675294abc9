#include "block_file.hpp"

#include <utility>

#include "io/files.hpp"
#include "io/hdf5_layout.hpp"

#include "quip/core/digest.hpp"
#include "quip/core/error.hpp"
#include "quip/core/usage.hpp"

namespace quip {
namespace {

/// Returns the type of a dataset's elements, in files and (we are little-endian) in memory.
hid_t type_of(const std::vector<std::uint8_t>& /*elements*/) { return H5T_STD_U8LE; }
hid_t type_of(const std::vector<float>& /*elements*/) { return H5T_IEEE_F32LE; }
hid_t type_of(const std::vector<std::uint16_t>& /*elements*/) { return half_type(); }

std::vector<index_t> shape_in_file(const Part& part) {
  return part.packed() ? std::vector<index_t>{part.bytes()} : part.shape;
}

/// Returns an attribute's value as files have it.
template <typename T>
auto value_in_file(const T& value) {
  if constexpr (std::is_enum_v<T>) {
    return to_string(value);
  } else if constexpr (std::is_same_v<T, double> || std::is_same_v<T, std::uint64_t>) {
    return value;
  } else {
    return std::int64_t{value};
  }
}

/// Bytes to be written once the file's layout is final.
struct Unwritten {
  index_t offset;
  std::span<const std::byte> bytes;
};

/// Lays out a group per layer, then the elements of all of them.
class BlockLayout {
 public:
  explicit BlockLayout(const std::filesystem::path& file) : where_(file.string()), layout_(file) {}

  void add(const StoredLayer& stored) {
    const H5Group group = create_group(layout_.file(), stored.name, where_);
    add_attributes(group.get(), stored);
    visit_parts([&](const Part& part, const auto& elements) { add_part(group, part, elements); },
                stored.layer);
  }

  /// Writes HDF5's structures and returns what is still to be written.
  std::vector<Unwritten> write_structure() {
    layout_.write();
    return std::move(unwritten_);
  }

 private:
  template <typename T>
  void add_part(const H5Group& group, const Part& part, const std::vector<T>& elements) {
    if (elements.empty()) return;
    auto bytes = std::as_bytes(std::span(elements));
    if constexpr (std::is_same_v<T, std::uint8_t>) {
      if (part.packed()) {
        auto& packed = packed_.emplace_back(at(part.bytes()));
        pack_row(elements.data(), part.count(), part.bits, packed.data());
        bytes = std::as_bytes(std::span(packed));
      }
    }
    const H5Dataset dataset =
        layout_.add_dataset(group.get(), part.name, type_of(elements), shape_in_file(part));
    write_attribute(dataset.get(), "digest", digest_of(bytes), where_);
    unwritten_.push_back({data_offset(dataset), bytes});
  }

  void add_attributes(hid_t group, const StoredLayer& stored) const {
    const auto write = [&](const char* name, const auto& value) {
      write_attribute(group, name, value_in_file(value), where_);
    };
    const auto write_next = [&](const Attribute& attribute, const auto& value) {
      if (attribute.name == std::string_view("grid")) {  // where files have always had it
        write_attribute(group, "method", stored.method, where_);
      }
      write(attribute.name, value);
    };
    visit_attributes(write_next, stored.layer);
    write_attribute(group, "digest", digest_of(stored.layer), where_);
    visit_statistics(write, stored.statistics);
  }

  std::string where_;
  Layout layout_;
  std::vector<Unwritten> unwritten_;
  std::vector<std::vector<std::uint8_t>> packed_;  // spans into the inner, stable, storage
};

/// Reads the datasets and attributes of one layer's group.
class LayerReader {
 public:
  LayerReader(const std::filesystem::path& file, const std::string& name)
      : file_(open_hdf5(file)),
        file_bytes_(static_cast<index_t>(std::filesystem::file_size(file))),
        where_(fmt::format("{}: layer {}", file.string(), name)),
        group_(open_group(file_.get(), name, file.string())) {}

  [[nodiscard]] QuantizedLinear layer() const {
    QuantizedLinear layer;
    visit_attributes([&](const Attribute& attribute, auto& value) { read(attribute, value); },
                     layer);
    layer.rescaled = has_link(group_.get(), "rescale", where_);
    visit_parts([&](const Part& part, auto& elements) { read_part(part, elements); }, layer);
    return layer;
  }

  [[nodiscard]] LayerStatistics statistics() const {
    LayerStatistics statistics;
    if (has_attribute(group_.get(), "mu_h_before", where_)) statistics.spectra.emplace();
    if (has_attribute(group_.get(), "tokens", where_)) statistics.tokens.emplace();
    if (has_attribute(group_.get(), "target_shift", where_)) statistics.target_shift.emplace();
    visit_statistics([&](const char* name, auto& value) { read({name}, value); }, statistics);
    return statistics;
  }

  template <typename T>
  [[nodiscard]] T attribute(const char* name) const {
    return read_attribute<T>(group_.get(), name, where_);
  }

 private:
  template <typename T>
  void read(const Attribute& by, T& value) const {
    if (by.added && !has_attribute(group_.get(), by.name, where_)) return;
    if constexpr (std::is_same_v<T, GridKind>) {
      value = parse_grid(attribute<std::string>(by.name));
    } else if constexpr (std::is_same_v<T, TransformKind>) {
      value = parse_transform(attribute<std::string>(by.name));
    } else if constexpr (std::is_same_v<T, CodebookKind>) {
      value = parse_codebook_kind(attribute<std::string>(by.name));
    } else if constexpr (std::is_same_v<T, trellis::Codebook>) {
      value = trellis::parse_codebook(attribute<std::string>(by.name));
    } else if constexpr (std::is_same_v<T, double> || std::is_same_v<T, std::uint64_t>) {
      value = attribute<T>(by.name);
    } else {
      const auto number = attribute<std::int64_t>(by.name);
      if (number < by.least || number > by.most) {
        fail("{}: {} is {}, outside {} … {}; the file is damaged", where_, by.name, number,
             by.least, by.most);
      }
      value = static_cast<T>(number);
    }
  }

  template <typename T>
  void read_part(const Part& part, std::vector<T>& elements) const {
    if (part.count() == 0) return;
    const std::string place = fmt::format("{}: dataset {}", where_, part.name);
    const H5Dataset dataset = open_dataset(group_.get(), part.name, where_);
    require_contiguous(dataset, place);
    if (shape_of(dataset, place) != shape_in_file(part)) fail("{}: has an unexpected shape", place);
    // Checked before memory is asked for: a damaged size must not become an allocation.
    if (part.bytes() > file_bytes_) {
      fail("{}: is larger than its file; the file is damaged", place);
    }
    elements.resize(at(part.bytes()) / sizeof(T));
    check(H5Dread(dataset.get(), type_of(elements), H5S_ALL, H5S_ALL, H5P_DEFAULT, elements.data()),
          "H5Dread", place);
    UsageMeter::current().add_read(part.bytes());
    if (digest_of(std::as_bytes(std::span(elements))) !=
        read_attribute<std::string>(dataset.get(), "digest", place)) {
      fail("{}: does not match its digest; the file is damaged", place);
    }
    if constexpr (std::is_same_v<T, std::uint8_t>) {
      if (!part.packed()) return;
      const std::vector<T> packed = std::exchange(elements, std::vector<T>(at(part.count())));
      unpack_row(packed.data(), part.count(), part.bits, elements.data());
    }
  }

  H5File file_;
  index_t file_bytes_;
  std::string where_;
  H5Group group_;
};

}  // namespace

void write_block_file(const std::filesystem::path& file, const std::vector<StoredLayer>& layers) {
  for (const StoredLayer& stored : layers) validate(stored.layer, stored.name);
  BlockLayout layout(file);
  for (const StoredLayer& stored : layers) layout.add(stored);
  const std::vector<Unwritten> unwritten = layout.write_structure();
  const File raw = File::open_write(file);
  for (const auto& [offset, bytes] : unwritten) raw.write_at(bytes, offset);
}

StoredLayer read_block_layer(const std::filesystem::path& file, const std::string& name,
                             const std::string& expected) {
  const LayerReader reader(file, name);
  StoredLayer stored{name, reader.attribute<std::string>("method"), reader.layer(),
                     reader.statistics()};
  validate(stored.layer, fmt::format("{} in {}", name, file.string()));
  const std::string digest = digest_of(stored.layer);
  if (digest != expected || digest != reader.attribute<std::string>("digest")) {
    fail("{}: layer {} does not match its digest; the file is damaged or belongs to another model",
         file.string(), name);
  }
  return stored;
}

}  // namespace quip
