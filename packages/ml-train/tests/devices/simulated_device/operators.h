// Every operator of torch on the device: the CPU's kernel on the same memory.
//
// A boxed fallback shows the device's tensors to the CPU's kernel as tensors of the CPU that share
// their memory, and the results to the caller as tensors of the device. A call that mixes devices
// is refused, as a real device would refuse it.
#pragma once
#include <ATen/EmptyTensor.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <torch/library.h>
#include "memory.h"

namespace simulated {

using Tensors = std::vector<at::Tensor>;

inline bool is_here(const at::Tensor& tensor) {
  return tensor.defined() && tensor.device().type() == kType;
}

inline void drop_storage(void* storage) { delete static_cast<c10::Storage*>(storage); }

// The same memory as a tensor of another device; it keeps the original's storage alive.
inline at::Tensor shown_on(const at::Tensor& tensor, c10::Device device) {
  const auto storage = tensor.storage();
  const auto key = device.is_cpu() ? c10::DispatchKey::CPU : kKey;
  auto* allocator = device.is_cpu() ? c10::GetAllocator(c10::kCPU) : &device_allocator;
  c10::DataPtr pointer(const_cast<void*>(storage.data()), new c10::Storage(storage), &drop_storage,
                       device);
  c10::Storage shared(c10::Storage::use_byte_size_t(), storage.nbytes(), std::move(pointer),
                      allocator, /*resizable=*/true);
  auto shown = at::detail::make_tensor<c10::TensorImpl>(std::move(shared),
                                                        c10::DispatchKeySet(key), tensor.dtype());
  shown.unsafeGetTensorImpl()->set_sizes_and_strides(tensor.sizes(), tensor.strides(),
                                                     tensor.storage_offset());
  if (tensor.is_conj()) shown._set_conj(true);
  if (tensor.is_neg()) shown._set_neg(true);
  return shown;
}

inline at::Tensor on_cpu(const at::Tensor& tensor) {
  return is_here(tensor) ? shown_on(tensor, c10::kCPU) : tensor;
}

inline at::Tensor on_device(const at::Tensor& tensor, c10::Device device) {
  return tensor.defined() && tensor.is_cpu() ? shown_on(tensor, device) : tensor;
}

// The arguments of a call: originals for results that alias them, and the rule about devices.
class Arguments {
 public:
  Arguments(const c10::OperatorHandle& op, torch::jit::Stack* stack)
      : schema_(op.schema()),
        name_(c10::toString(op.schema().operator_name())),
        begin_(stack->size() - op.schema().arguments().size()),
        originals_(op.schema().arguments().size()),
        shown_(op.schema().arguments().size()) {
    for (size_t i = 0; i < originals_.size(); i++) show_on_cpu((*stack)[begin_ + i], i);
    refuse_mixed_devices();
  }

  c10::Device device() const {
    return here_.empty() ? c10::Device(kType, current_index) : here_.front().device();
  }

  // What is returned for a result that writes into an argument: that argument itself.
  c10::IValue written(const c10::AliasInfo& alias, const c10::IValue& result) const {
    for (size_t i = 0; i < originals_.size(); i++) {
      const auto* own = schema_.arguments()[i].alias_info();
      if (own == nullptr || !(*own == alias)) continue;
      if (originals_[i].isTensor()) grow(originals_[i].toTensor(), shown_[i].toTensor());
      return originals_[i];
    }
    return result;
  }

  const std::string& name() const { return name_; }
  const c10::IValue& original(size_t i) const { return originals_[i]; }

 private:
  void note(const at::Tensor& tensor, size_t i) {
    if (is_here(tensor)) here_.push_back(tensor);
    // Numbers that became tensors have no dimensions; every device takes them from the host.
    if (tensor.defined() && tensor.is_cpu() && tensor.dim() > 0)
      of_host_ += " " + schema_.arguments()[i].name();
  }

  void show_on_cpu(c10::IValue& value, size_t i) {
    originals_[i] = value;
    if (value.isTensor()) {
      note(value.toTensor(), i);
      value = on_cpu(value.toTensor());
    } else if (value.isTensorList()) {
      Tensors shown;
      for (const auto& tensor : value.toTensorVector()) {
        note(tensor, i);
        shown.push_back(on_cpu(tensor));
      }
      value = c10::IValue(shown);
    } else if (value.isOptionalTensorList()) {
      c10::List<std::optional<at::Tensor>> shown;
      for (const auto& tensor : value.toOptionalTensorVector()) {
        if (tensor.has_value()) note(*tensor, i);
        shown.push_back(tensor.has_value() ? std::optional(on_cpu(*tensor)) : std::nullopt);
      }
      value = c10::IValue(shown);
    } else if (value.isDevice() && value.toDevice().type() == kType) {
      value = c10::IValue(c10::Device(c10::kCPU));
    }
    shown_[i] = value;
  }

  void refuse_mixed_devices() const {
    // Indices may lie on the host for any device.
    const bool takes_host_indices = name_.rfind("aten::index", 0) == 0 ||
                                    name_.rfind("aten::_index_put", 0) == 0;
    TORCH_CHECK(here_.empty() || of_host_.empty() || takes_host_indices,
                "Expected all tensors to be on the same device: ", name_,
                " got tensors of the CPU for", of_host_);
    for (const auto& tensor : here_)
      TORCH_CHECK(tensor.device() == here_.front().device(),
                  "Expected all tensors to be on the same device: ", name_, " got ",
                  here_.front().device(), " and ", tensor.device());
  }

  // The CPU's kernel may have given an out= tensor another size.
  static void grow(const at::Tensor& original, const at::Tensor& shown) {
    if (!is_here(original) || !shown.defined() || shown.sizes() == original.sizes()) return;
    original.resize_(shown.sizes());
    on_cpu(original).copy_(shown);
  }

  const c10::FunctionSchema& schema_;
  const std::string name_;
  const size_t begin_;
  std::vector<c10::IValue> originals_, shown_;
  Tensors here_;
  std::string of_host_;
};

// Operators whose result has a size that only the device knows, or that answer the host.
inline bool answers_the_host(const Arguments& arguments) {
  static const std::set<std::string> names = {
      "aten::_unique2", "aten::unique_dim", "aten::unique_consecutive", "aten::bincount",
      "aten::equal", "aten::repeat_interleave.Tensor"};
  if (names.count(arguments.name()) > 0) return true;
  // torch turns the masks of a read into positions by nonzero, which counts; those of a write here.
  if (arguments.name() != "aten::_index_put_impl_") return false;
  // A mask with one value is filled in place.
  if (arguments.original(2).toTensor().numel() == 1) return false;
  for (const auto& index : arguments.original(1).toOptionalTensorVector())
    if (index.has_value() && index->defined() && index->scalar_type() == at::kBool) return true;
  return false;
}

inline void run_on_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const Arguments arguments(op, stack);
  const auto device = arguments.device();
  note_call(arguments.name());
  if (answers_the_host(arguments)) wait_for_device(arguments.name());
  op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
  const auto& returns = op.schema().returns();
  const auto begin = stack->size() - returns.size();
  for (size_t i = 0; i < returns.size(); i++) {
    auto& value = (*stack)[begin + i];
    const auto* alias = returns[i].alias_info();
    if (alias != nullptr && alias->isWrite()) {
      value = arguments.written(*alias, value);
    } else if (value.isTensor()) {
      value = on_device(value.toTensor(), device);
    } else if (value.isTensorList()) {
      Tensors shown;
      for (const auto& tensor : value.toTensorVector()) shown.push_back(on_device(tensor, device));
      value = c10::IValue(shown);
    }
  }
}

class OnIndex {
 public:
  explicit OnIndex(std::optional<at::Device> device) : previous_(current_index) {
    if (device.has_value() && device->index() >= 0) current_index = device->index();
  }
  ~OnIndex() { current_index = previous_; }

 private:
  const c10::DeviceIndex previous_;
};

inline at::Tensor empty(c10::IntArrayRef size, std::optional<at::ScalarType> dtype,
                        std::optional<at::Layout>, std::optional<at::Device> device,
                        std::optional<bool>, std::optional<at::MemoryFormat> format) {
  const OnIndex on_index(device);
  return at::detail::empty_generic(size, &device_allocator, c10::DispatchKeySet(kKey),
                                   c10::dtype_or_default(dtype), format);
}

inline at::Tensor empty_strided(c10::IntArrayRef size, c10::IntArrayRef stride,
                                std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                                std::optional<at::Device> device, std::optional<bool>) {
  const OnIndex on_index(device);
  return at::detail::empty_strided_generic(size, stride, &device_allocator,
                                           c10::DispatchKeySet(kKey), c10::dtype_or_default(dtype));
}

// A copy to the host waits for the device unless it may go on behind the host's back.
inline at::Tensor copy_from(const at::Tensor& source, const at::Tensor& target,
                            bool non_blocking) {
  if (target.is_cpu() && !non_blocking) wait_for_device("copy to host");
  note_call(source.is_cpu() ? "copy from host" : target.is_cpu() ? "copy to host" : "copy");
  on_cpu(target).copy_(on_cpu(source));
  return target;
}

inline at::Tensor& copy_into(at::Tensor& target, const at::Tensor& source, bool non_blocking) {
  copy_from(source.expand_as(target), target, non_blocking);
  return target;
}

inline at::Tensor copy_from_and_resize(const at::Tensor& source, const at::Tensor& target) {
  target.resize_(source.sizes());
  return copy_from(source, target, /*non_blocking=*/false);
}

inline at::Scalar item(const at::Tensor& tensor) {
  wait_for_device("item");
  return on_cpu(tensor).item();
}

inline at::Tensor nonzero(const at::Tensor& tensor) {
  wait_for_device("nonzero");
  return on_device(on_cpu(tensor).nonzero(), tensor.device());
}

inline at::Tensor masked_select(const at::Tensor& tensor, const at::Tensor& mask) {
  TORCH_CHECK(tensor.device() == mask.device(), "Expected all tensors to be on the same device: ",
              "masked_select got ", tensor.device(), " and ", mask.device());
  wait_for_device("masked_select");
  return on_device(on_cpu(tensor).masked_select(on_cpu(mask)), tensor.device());
}

inline at::Tensor& set_source(at::Tensor& tensor, at::Storage source, int64_t offset,
                              c10::IntArrayRef size, c10::IntArrayRef stride) {
  tensor.unsafeGetTensorImpl()->set_storage_keep_dtype(std::move(source));
  tensor.unsafeGetTensorImpl()->set_sizes_and_strides(size, stride, offset);
  return tensor;
}

inline at::Tensor& set_storage(at::Tensor& tensor, at::Storage source) {
  const auto count = static_cast<int64_t>(source.nbytes() / tensor.dtype().itemsize());
  return set_source(tensor, std::move(source), 0, {count}, {1});
}

inline at::Tensor& set_tensor(at::Tensor& tensor, const at::Tensor& source) {
  return set_source(tensor, source.storage(), source.storage_offset(), source.sizes(),
                    source.strides());
}

inline const at::Tensor& resize(const at::Tensor& tensor, c10::IntArrayRef size,
                                std::optional<at::MemoryFormat>) {
  const auto count = c10::multiply_integers(size) + tensor.storage_offset();
  const auto needed = static_cast<size_t>(count) * tensor.dtype().itemsize();
  if (needed > tensor.storage().nbytes()) resize_bytes(tensor.storage(), needed);
  tensor.unsafeGetTensorImpl()->set_sizes_contiguous(size);
  return tensor;
}

inline void record_stream(at::Tensor&, c10::Stream) {}


}  // namespace simulated

TORCH_LIBRARY_IMPL(_, SIMULATED_KEY, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&simulated::run_on_cpu>());
}

// What reads or makes memory cannot go through the fallback.
TORCH_LIBRARY_IMPL(aten, SIMULATED_KEY, m) {
  m.impl("empty.memory_format", simulated::empty);
  m.impl("empty_strided", simulated::empty_strided);
  m.impl("as_strided", at::native::as_strided_tensorimpl);
  m.impl("view", at::native::view);
  m.impl("_reshape_alias", at::native::_reshape_alias);
  m.impl("unfold", at::native::unfold);
#ifdef SIMULATED_CUDA
  m.impl("copy_", simulated::copy_into);
#else
  m.impl("_copy_from", simulated::copy_from);
  m.impl("_copy_from_and_resize", simulated::copy_from_and_resize);
  // torch_npu has a kernel for it, and ml-train asks the dispatcher whether there is one.
  m.impl("_fused_adamw_", torch::CppFunction::makeFromBoxedFunction<&simulated::run_on_cpu>());
#endif
  m.impl("_local_scalar_dense", simulated::item);
  m.impl("nonzero", simulated::nonzero);
  m.impl("masked_select", simulated::masked_select);
  m.impl("set_.source_Storage_storage_offset", simulated::set_source);
  m.impl("set_.source_Storage", simulated::set_storage);
  m.impl("set_.source_Tensor", simulated::set_tensor);
  m.impl("resize_", simulated::resize);
  m.impl("record_stream", simulated::record_stream);
}
