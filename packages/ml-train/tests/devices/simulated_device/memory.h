// The device's memory, its current index, streams and generators: what torch asks of any device.
#pragma once
#include <ATen/CPUGeneratorImpl.h>
#include <c10/core/Allocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <cstdlib>
#include <cstring>
#include <set>
#include <algorithm>
#include <vector>
#include "counters.h"
#include "kind.h"

namespace simulated {

inline thread_local c10::DeviceIndex current_index = 0;
inline std::atomic<int64_t> allocated_bytes{0};
inline std::atomic<int64_t> peak_bytes{0};

struct Block {
  void* pointer;
  int64_t num_bytes;
};

inline void free_block(void* context) {
  auto* block = static_cast<Block*>(context);
  allocated_bytes -= block->num_bytes;
  std::free(block->pointer);
  delete block;
}

inline void* aligned_bytes(size_t num_bytes) {
  void* pointer = nullptr;
  TORCH_CHECK(posix_memalign(&pointer, 64, num_bytes) == 0, "the simulated device is out of memory");
  return pointer;
}

class DeviceAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t num_bytes) override {
    void* pointer = nullptr;
    if (num_bytes > 0) {
      pointer = aligned_bytes(num_bytes);
      // Memory of a device holds anything: a value that is read before it is written must show.
      std::memset(pointer, 0x7f, num_bytes);
    }
    const int64_t now = allocated_bytes += static_cast<int64_t>(num_bytes);
    for (int64_t peak = peak_bytes; now > peak && !peak_bytes.compare_exchange_weak(peak, now);) {
    }
    auto* block = new Block{pointer, static_cast<int64_t>(num_bytes)};
    return {pointer, block, &free_block, c10::Device(kType, current_index)};
  }
  // The context is not the pointer, so no function can free the bare pointer.
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* target, const void* source, size_t num_bytes) const override {
    std::memcpy(target, source, num_bytes);
  }
};
inline DeviceAllocator device_allocator;
REGISTER_ALLOCATOR(kType, &device_allocator);

inline std::mutex pinned_mutex;
inline std::set<const void*> pinned_pointers;

inline void free_pinned(void* pointer) {
  std::lock_guard<std::mutex> guard(pinned_mutex);
  pinned_pointers.erase(pointer);
  std::free(pointer);
}

// Host memory that the device may read and write while the host works on.
class PinnedAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t num_bytes) override {
    void* pointer = aligned_bytes(num_bytes > 0 ? num_bytes : 1);
    std::lock_guard<std::mutex> guard(pinned_mutex);
    pinned_pointers.insert(pointer);
    return {pointer, pointer, &free_pinned, c10::Device(c10::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &free_pinned; }
  void copy_data(void* target, const void* source, size_t num_bytes) const override {
    std::memcpy(target, source, num_bytes);
  }
};
inline PinnedAllocator pinned_allocator;

inline bool is_pinned(const void* pointer) {
  std::lock_guard<std::mutex> guard(pinned_mutex);
  return pinned_pointers.count(pointer) > 0;
}

// All work is done when the call returns, so there is one stream, and an event has always happened.
class Guard final : public c10::impl::DeviceGuardImplInterface {
 public:
  c10::DeviceType type() const override { return kType; }
  c10::Device exchangeDevice(c10::Device device) const override {
    const auto previous = getDevice();
    setDevice(device);
    return previous;
  }
  c10::Device getDevice() const override { return {kType, current_index}; }
  void setDevice(c10::Device device) const override { uncheckedSetDevice(device); }
  void uncheckedSetDevice(c10::Device device) const noexcept override {
    if (device.index() >= 0) current_index = device.index();
  }
  c10::Stream getStream(c10::Device device) const override {
    return c10::Stream(c10::Stream::DEFAULT, device);
  }
  c10::Stream getDefaultStream(c10::Device device) const override { return getStream(device); }
  c10::Stream getNewStream(c10::Device device, int) const override { return getStream(device); }
  c10::Stream getStreamFromGlobalPool(c10::Device device, bool) const override {
    return getStream(device);
  }
  c10::Stream exchangeStream(c10::Stream stream) const override { return stream; }
  void record(void** event, const c10::Stream&, const c10::DeviceIndex,
              const c10::EventFlag) const override {
    *event = reinterpret_cast<void*>(1);  // not null: torch reads null as "never recorded"
  }
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return !queue_is_stuck; }
  void destroyEvent(void*, const c10::DeviceIndex) const noexcept override {}
  c10::DeviceIndex deviceCount() const noexcept override { return kNumDevices; }
  bool queryStream(const c10::Stream&) const override { return !queue_is_stuck; }
  void synchronizeStream(const c10::Stream&) const override { wait_for_device("stream"); }
  void synchronizeEvent(void*) const override { wait_for_device("event"); }
  void synchronizeDevice(const c10::DeviceIndex) const override { wait_for_device("device"); }
  void recordDataPtrOnStream(const c10::DataPtr&, const c10::Stream&) const override {}
  double elapsedTime(void*, void*, const c10::DeviceIndex) const override { return 0; }
};
C10_REGISTER_GUARD_IMPL(SIMULATED_KEY, Guard);

struct Generator final : public at::CPUGeneratorImpl {
  explicit Generator(c10::DeviceIndex index) : at::CPUGeneratorImpl(c10::default_rng_seed_val) {
    device_ = c10::Device(kType, index);
    key_set_ = c10::DispatchKeySet(kKey);
  }
};

inline at::Generator& default_generator(c10::DeviceIndex index) {
  static std::vector<at::Generator> generators = [] {
    std::vector<at::Generator> made;
    for (c10::DeviceIndex i = 0; i < kNumDevices; i++)
      made.push_back(at::make_generator<Generator>(i));
    return made;
  }();
  return generators.at(index < 0 ? current_index : index);
}

inline void resize_bytes(const c10::Storage& storage, size_t num_bytes) {
  auto data = device_allocator.allocate(num_bytes);
  const auto kept = std::min(num_bytes, storage.nbytes());
  if (kept > 0) std::memcpy(data.get(), storage.data(), kept);
  auto& changed = const_cast<c10::Storage&>(storage);
  changed.set_data_ptr_noswap(std::move(data));
  changed.set_nbytes(num_bytes);
}

}  // namespace simulated
