#include "block_file.hpp"

#include "io/files.hpp"
#include "io/hdf5_layout.hpp"

#include "quip/core/digest.hpp"
#include "quip/core/error.hpp"
#include "quip/core/usage.hpp"

namespace quip {
namespace {

/// No layer is longer on any side: keeps products of damaged sizes from overflowing.
constexpr index_t kMaxExtent = index_t{1} << 28;

index_t packed_bytes(index_t count, int bits) { return (count * bits + 7) / 8; }

std::vector<std::uint8_t> pack_zero(const QuantizedLinear& layer) {
  const index_t count = std::ssize(layer.zero);
  std::vector<std::uint8_t> packed(static_cast<std::size_t>(packed_bytes(count, layer.bits)));
  if (count > 0) pack_row(layer.zero.data(), count, layer.bits, packed.data());
  return packed;
}

/// Bytes that wait for the file's layout to be final.
struct Unwritten {
  index_t offset;
  std::span<const std::byte> bytes;
};

/// One group per layer, then the elements of all of them.
class BlockLayout {
 public:
  explicit BlockLayout(const std::filesystem::path& file) : where_(file.string()), layout_(file) {}

  void add(const StoredLayer& stored) {
    const QuantizedLinear& layer = stored.layer;
    const H5Group group = create_group(layout_.file(), stored.name, where_);
    add_attributes(group.get(), stored);
    add_dataset(group, "codes", H5T_STD_U8LE, {layer.rows, layer.row_bytes()}, layer.codes);
    add_dataset(group, "scale", H5T_IEEE_F32LE, {std::ssize(layer.scale)}, layer.scale);
    const auto& zero = zeros_.emplace_back(pack_zero(layer));
    if (!zero.empty()) add_dataset(group, "zero", H5T_STD_U8LE, {std::ssize(zero)}, zero);
    if (!layer.rescale.empty()) {
      add_dataset(group, "rescale", H5T_IEEE_F32LE, {std::ssize(layer.rescale)}, layer.rescale);
    }
  }

  /// Writes HDF5's structures and returns what is still to be written.
  std::vector<Unwritten> write_structure() {
    layout_.write();
    return std::move(unwritten_);
  }

 private:
  template <typename T>
  void add_dataset(const H5Group& group, const char* name, hid_t type,
                   const std::vector<index_t>& shape, const std::vector<T>& elements) {
    const auto bytes = std::as_bytes(std::span(elements));
    const H5Dataset dataset = layout_.add_dataset(group.get(), name, type, shape);
    write_attribute(dataset.get(), "digest", digest_of(bytes), where_);
    unwritten_.push_back({data_offset(dataset), bytes});
  }

  void add_attributes(hid_t group, const StoredLayer& stored) const {
    const QuantizedLinear& layer = stored.layer;
    write_attribute(group, "bits", std::int64_t{layer.bits}, where_);
    write_attribute(group, "rows", layer.rows, where_);
    write_attribute(group, "cols", layer.cols, where_);
    write_attribute(group, "method", stored.method, where_);
    write_attribute(group, "grid", to_string(layer.grid), where_);
    write_attribute(group, "transform", to_string(layer.transform), where_);
    write_attribute(group, "group_size", layer.group_size, where_);
    write_attribute(group, "symmetric", std::int64_t{layer.symmetric}, where_);
    write_attribute(group, "seed_u", layer.seed_u, where_);
    write_attribute(group, "seed_v", layer.seed_v, where_);
    write_attribute(group, "digest", digest_of(layer), where_);
    const LayerStatistics& statistics = stored.statistics;
    write_attribute(group, "proxy_loss", statistics.proxy_loss, where_);
    write_attribute(group, "relative_proxy_loss", statistics.relative_proxy_loss, where_);
    write_attribute(group, "trace_ratio", statistics.trace_ratio, where_);
    write_attribute(group, "rate_distortion_ratio", statistics.rate_distortion_ratio, where_);
    write_attribute(group, "mu_w_before", statistics.incoherence_before, where_);
    write_attribute(group, "mu_w_after", statistics.incoherence_after, where_);
    write_attribute(group, "damping", statistics.damping, where_);
    write_attribute(group, "damping_tries", std::int64_t{statistics.damping_tries}, where_);
    write_attribute(group, "dead_channels", statistics.dead_channels, where_);
    write_attribute(group, "rho", statistics.rho, where_);
    write_attribute(group, "passes", std::int64_t{statistics.passes}, where_);
    if (!statistics.spectra) return;
    add_spectrum(group, "before", statistics.spectra->before);
    add_spectrum(group, "after", statistics.spectra->after);
  }

  void add_spectrum(hid_t group, const std::string& when, const Spectrum& spectrum) const {
    write_attribute(group, ("mu_h_" + when).c_str(), spectrum.incoherence, where_);
    write_attribute(group, ("rank_" + when).c_str(), spectrum.rank, where_);
    write_attribute(group, ("rank_1pct_" + when).c_str(), spectrum.approximate_rank, where_);
  }

  std::string where_;
  Layout layout_;
  std::vector<Unwritten> unwritten_;
  std::vector<std::vector<std::uint8_t>> zeros_;  // spans into the inner, stable, storage
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
    layer.rows = extent("rows");
    layer.cols = extent("cols");
    layer.bits = static_cast<int>(ranged("bits", 1, 8));
    layer.grid = parse_grid(attribute<std::string>("grid"));
    layer.transform = parse_transform(attribute<std::string>("transform"));
    layer.group_size = ranged("group_size", 0, kMaxExtent);
    layer.symmetric = ranged("symmetric", 0, 1) != 0;
    layer.seed_u = attribute<std::uint64_t>("seed_u");
    layer.seed_v = attribute<std::uint64_t>("seed_v");
    layer.codes = dataset<std::uint8_t>("codes", H5T_NATIVE_UINT8, {layer.rows, layer.row_bytes()});
    const bool minmax = layer.grid == GridKind::minmax;
    const index_t grids = minmax ? layer.rows * layer.groups() : 1;
    layer.scale = dataset<float>("scale", H5T_NATIVE_FLOAT, {grids});
    if (minmax && !layer.symmetric) layer.zero = zero(grids, layer.bits);
    if (has_link(group_.get(), "rescale", where_)) {
      layer.rescale = dataset<float>("rescale", H5T_NATIVE_FLOAT, {layer.cols});
    }
    return layer;
  }

  [[nodiscard]] LayerStatistics statistics() const {
    LayerStatistics statistics;
    statistics.proxy_loss = attribute<double>("proxy_loss");
    statistics.relative_proxy_loss = attribute<double>("relative_proxy_loss");
    statistics.trace_ratio = attribute<double>("trace_ratio");
    statistics.rate_distortion_ratio = attribute<double>("rate_distortion_ratio");
    statistics.incoherence_before = attribute<double>("mu_w_before");
    statistics.incoherence_after = attribute<double>("mu_w_after");
    statistics.damping = attribute<double>("damping");
    statistics.damping_tries = static_cast<int>(attribute<std::int64_t>("damping_tries"));
    statistics.dead_channels = attribute<std::int64_t>("dead_channels");
    statistics.rho = attribute<double>("rho");
    statistics.passes = static_cast<int>(attribute<std::int64_t>("passes"));
    if (has_attribute(group_.get(), "mu_h_before", where_)) {
      statistics.spectra = Spectra{spectrum("before"), spectrum("after")};
    }
    return statistics;
  }

  [[nodiscard]] Spectrum spectrum(const std::string& when) const {
    return {attribute<double>(("mu_h_" + when).c_str()),
            attribute<double>(("rank_" + when).c_str()),
            attribute<double>(("rank_1pct_" + when).c_str())};
  }

  template <typename T>
  [[nodiscard]] T attribute(const char* name) const {
    return read_attribute<T>(group_.get(), name, where_);
  }

 private:
  [[nodiscard]] index_t ranged(const char* name, index_t least, index_t most) const {
    const auto value = attribute<std::int64_t>(name);
    if (value < least || value > most) {
      fail("{}: {} is {}, outside {} … {}; the file is damaged", where_, name, value, least, most);
    }
    return value;
  }

  [[nodiscard]] index_t extent(const char* name) const { return ranged(name, 1, kMaxExtent); }

  template <typename T>
  [[nodiscard]] std::vector<T> dataset(const char* name, hid_t memory_type,
                                       const std::vector<index_t>& shape) const {
    const std::string place = fmt::format("{}: dataset {}", where_, name);
    const H5Dataset dataset = open_dataset(group_.get(), name, where_);
    require_contiguous(dataset, place);
    if (shape_of(dataset, place) != shape) fail("{}: has an unexpected shape", place);
    index_t count = 1;
    for (const index_t extent : shape) count *= extent;
    // Checked before memory is asked for: a damaged size must not become an allocation.
    if (count * static_cast<index_t>(sizeof(T)) > file_bytes_) {
      fail("{}: is larger than its file; the file is damaged", place);
    }
    std::vector<T> elements(static_cast<std::size_t>(count));
    check(H5Dread(dataset.get(), memory_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, elements.data()),
          "H5Dread", place);
    UsageMeter::current().add_read(count * static_cast<index_t>(sizeof(T)));
    if (digest_of(std::as_bytes(std::span(elements))) !=
        read_attribute<std::string>(dataset.get(), "digest", place)) {
      fail("{}: does not match its digest; the file is damaged", place);
    }
    return elements;
  }

  [[nodiscard]] std::vector<std::uint8_t> zero(index_t count, int bits) const {
    const auto packed =
        dataset<std::uint8_t>("zero", H5T_NATIVE_UINT8, {packed_bytes(count, bits)});
    std::vector<std::uint8_t> zero(static_cast<std::size_t>(count));
    unpack_row(packed.data(), count, bits, zero.data());
    return zero;
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
