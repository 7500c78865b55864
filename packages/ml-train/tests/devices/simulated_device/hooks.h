// What torch asks a device's library, and the registration that makes torch ask this one.
#pragma once
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include "memory.h"

namespace simulated {

// What both interfaces ask.
template <typename Interface>
struct Hooks : public Interface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex index) const override {
    return default_generator(index);
  }
  at::Generator getNewGenerator(c10::DeviceIndex index) const override {
    return at::make_generator<Generator>(index < 0 ? current_index : index);
  }
  at::Device getDeviceFromPtr(void*) const override { return {kType, current_index}; }
  bool isPinnedPtr(const void* pointer) const override { return is_pinned(pointer); }
  c10::Allocator* getPinnedMemoryAllocator() const override { return &pinned_allocator; }
  c10::DeviceIndex deviceCount() const override { return kNumDevices; }
  c10::DeviceIndex getCurrentDevice() const override { return current_index; }
};

#ifdef SIMULATED_CUDA

namespace {
// torch finds the class by this name when it first needs CUDA, so the library is preloaded.
struct CUDAHooks final : public Hooks<at::CUDAHooksInterface> {
  explicit CUDAHooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  c10::DeviceIndex current_device() const override { return current_index; }
};
using at::CUDAHooksRegistry;
using at::RegistererCUDAHooksRegistry;
REGISTER_CUDA_HOOKS(CUDAHooks)
}  // namespace

#else

struct NpuHooks final : public Hooks<at::PrivateUse1HooksInterface> {
  void setCurrentDevice(c10::DeviceIndex index) const override { current_index = index; }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex index) const override {
    const auto previous = current_index;
    if (index >= 0) current_index = index;
    return previous;
  }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex index) const override {
    return exchangeDevice(index);
  }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t num_bytes) const override {
    resize_bytes(storage, num_bytes);
  }
};

namespace {
NpuHooks npu_hooks;
struct RegisterHooks {
  RegisterHooks() { at::RegisterPrivateUse1HooksInterface(&npu_hooks); }
} register_hooks;
}  // namespace

#endif

}  // namespace simulated
