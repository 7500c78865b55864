// Which device the library is: torch's PrivateUse1, named npu, or with SIMULATED_CUDA its CUDA.
#pragma once
#include <c10/core/Device.h>
#include <c10/core/DispatchKey.h>

#ifdef SIMULATED_CUDA
#define SIMULATED_KEY CUDA
#else
#define SIMULATED_KEY PrivateUse1
#endif

namespace simulated {

constexpr auto kType = c10::DeviceType::SIMULATED_KEY;
constexpr auto kKey = c10::DispatchKey::SIMULATED_KEY;
constexpr c10::DeviceIndex kNumDevices = 8;
#ifdef SIMULATED_CUDA
constexpr const char* kBackend = "nccl";
#else
constexpr const char* kBackend = "hccl";
#endif

}  // namespace simulated
