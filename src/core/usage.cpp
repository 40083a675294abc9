#include "quip/core/usage.hpp"

namespace quip {

Usage& Usage::operator+=(const Usage& other) {
  flops += other.flops;
  bytes_sent += other.bytes_sent;
  bytes_read += other.bytes_read;
  bytes_written += other.bytes_written;
  communication_seconds += other.communication_seconds;
  return *this;
}

Usage& Usage::operator-=(const Usage& other) {
  flops -= other.flops;
  bytes_sent -= other.bytes_sent;
  bytes_read -= other.bytes_read;
  bytes_written -= other.bytes_written;
  communication_seconds -= other.communication_seconds;
  return *this;
}

UsageMeter& UsageMeter::current() {
  static UsageMeter meter;
  return meter;
}

Usage UsageMeter::total() const {
  Usage total;
  total.flops = flops_.load(std::memory_order_relaxed);
  total.bytes_sent = sent_.load(std::memory_order_relaxed);
  total.bytes_read = read_.load(std::memory_order_relaxed);
  total.bytes_written = written_.load(std::memory_order_relaxed);
  total.communication_seconds = communication_seconds_.load(std::memory_order_relaxed);
  return total;
}

UsageMeter::Communication::~Communication() {
  const double seconds = std::chrono::duration<double>(Clock::now() - start_).count();
  current().communication_seconds_.fetch_add(seconds, std::memory_order_relaxed);
}

}  // namespace quip
