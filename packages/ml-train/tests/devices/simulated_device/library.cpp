// A device that is not the CPU, with the CPU's memory and kernels, for tests without a device.
//
// torch's PrivateUse1, or its CUDA, becomes a device with real dispatch: its tensors have their own type and
// storage, a call that mixes devices is refused, and what the host waits for is counted. It shows
// where code confuses devices or waits for them. It shows nothing of kernels, streams, memory sizes
// or speed.
#include <torch/extension.h>
#include "collectives.h"
#include "hooks.h"

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  using namespace simulated;
  module.def("device_count", [] { return static_cast<int>(kNumDevices); });
  module.def("current_device", [] { return static_cast<int>(current_index); });
  module.def("set_device", [](int index) {
    TORCH_CHECK(index >= 0 && index < kNumDevices, "invalid device ordinal ", index);
    current_index = static_cast<c10::DeviceIndex>(index);
  });
  module.def("default_generator", [](int index) { return default_generator(index); });
  module.def("allocated_bytes", [] { return allocated_bytes.load(); });
  module.def("peak_bytes", [] { return peak_bytes.load(); });
  module.def("reset_peak_bytes", [] { peak_bytes = allocated_bytes.load(); });
  module.def("synchronize", [] { wait_for_device("device"); });
  module.def("operator_calls", [] {
    std::lock_guard<std::mutex> guard(counters_mutex);
    return operator_calls;
  });
  module.def("host_waits", [] {
    std::lock_guard<std::mutex> guard(counters_mutex);
    return host_waits;
  });
  module.def("listen_to_waits", [](pybind11::object listener) { wait_listener() = listener; });
  module.def("hang", [] { queue_is_stuck = true; });
  module.def("process_group", [](const c10::intrusive_ptr<c10d::Backend>& gloo)
                                  -> c10::intrusive_ptr<c10d::Backend> {
    return c10::make_intrusive<ProcessGroup>(gloo);
  });
}
