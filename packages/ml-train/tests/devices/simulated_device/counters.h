// What the device notes about a process: calls of operators, waits of the host, a stuck queue.
#pragma once
#include <pybind11/pybind11.h>
#include <atomic>
#include <chrono>
#include <map>
#include <mutex>
#include <string>
#include <thread>

namespace simulated {

inline std::mutex counters_mutex;
inline std::map<std::string, int64_t> operator_calls;
inline std::map<std::string, int64_t> host_waits;
// A queue whose next collective never completes: work behind it never does either.
inline std::atomic<bool> queue_is_stuck{false};

inline void note_call(const std::string& name) {
  std::lock_guard<std::mutex> guard(counters_mutex);
  operator_calls[name]++;
}

// The Python function that is told of a wait, so that a test learns which line of code waited.
inline pybind11::object& wait_listener() {
  // Never freed: at exit the interpreter is gone before static objects are.
  static auto* listener = new pybind11::object(pybind11::none());
  return *listener;
}

inline void tell_listener(const std::string& kind) {
  pybind11::gil_scoped_acquire with_gil;
  if (!wait_listener().is_none()) wait_listener()(kind);
}

// The host needs a value that the device computes. A real device makes it wait for all work that
// was queued before; this one computes at once, so it waits only where the queue is stuck.
inline void wait_for_device(const std::string& kind) {
  {
    std::lock_guard<std::mutex> guard(counters_mutex);
    host_waits[kind]++;
  }
  tell_listener(kind);
  const auto stand = [] {
    while (queue_is_stuck) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  };
  // torch's bindings usually release the interpreter's lock before they come here, not always.
  if (PyGILState_Check()) {
    pybind11::gil_scoped_release without_gil;
    stand();
  } else {
    stand();
  }
}

}  // namespace simulated
