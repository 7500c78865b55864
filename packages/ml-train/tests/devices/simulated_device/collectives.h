// A process group for tensors of the device alone, with gloo underneath.
#pragma once
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Work.hpp>
#include "operators.h"

namespace simulated {

using WorkPtr = c10::intrusive_ptr<c10d::Work>;

// A collective for which the host does not wait: a later wait for the device includes it.
struct InQueue final : public c10d::Work {
  bool wait(std::chrono::milliseconds) override { return true; }
  bool isCompleted() override { return false; }
  void synchronize() override {}
};

class ProcessGroup final : public c10d::Backend {
 public:
  explicit ProcessGroup(c10::intrusive_ptr<c10d::Backend> gloo)
      : c10d::Backend(gloo->getRank(), gloo->getSize()), gloo_(std::move(gloo)) {}

  const std::string getBackendName() const override { return kBackend; }

  WorkPtr broadcast(Tensors& tensors, const c10d::BroadcastOptions& options) override {
    return queued("broadcast", [&]() -> WorkPtr {
      auto shown = show(tensors);
      return gloo_->broadcast(shown, options);
    });
  }
  WorkPtr allreduce(Tensors& tensors, const c10d::AllreduceOptions& options) override {
    return queued("allreduce", [&]() -> WorkPtr {
      auto shown = show(tensors);
      return gloo_->allreduce(shown, options);
    });
  }
  WorkPtr allreduce_coalesced(Tensors& tensors,
                              const c10d::AllreduceCoalescedOptions& options) override {
    return queued("allreduce_coalesced", [&]() -> WorkPtr {
      auto shown = show(tensors);
      return gloo_->allreduce_coalesced(shown, options);
    });
  }
  WorkPtr reduce(Tensors& tensors, const c10d::ReduceOptions& options) override {
    return queued("reduce", [&]() -> WorkPtr {
      auto shown = show(tensors);
      return gloo_->reduce(shown, options);
    });
  }
  // HCCL and NCCL take pieces of unequal sizes, which gloo lacks: they are broadcast by their owners.
  WorkPtr allgather(std::vector<Tensors>& outputs, Tensors& inputs,
                    const c10d::AllgatherOptions& options) override {
    return queued("allgather", [&]() -> WorkPtr {
      auto pieces = show(outputs);
      auto shown = show(inputs);
      const auto& first = pieces[0].front();
      const auto is_equal = [&](const at::Tensor& piece) { return piece.sizes() == first.sizes(); };
      if (std::all_of(pieces[0].begin(), pieces[0].end(), is_equal))
        return gloo_->allgather(pieces, shown, options);
      pieces[0][rank_].copy_(shown[0]);
      WorkPtr last;
      for (int owner = 0; owner < size_; owner++) {
        if (pieces[0][owner].numel() == 0) continue;
        c10d::BroadcastOptions from_owner;
        from_owner.rootRank = owner;
        Tensors piece{pieces[0][owner]};
        last = gloo_->broadcast(piece, from_owner);
        last->wait();
      }
      return last ? last : gloo_->barrier();
    });
  }
  WorkPtr _allgather_base(at::Tensor& output, at::Tensor& input,
                          const c10d::AllgatherOptions& options) override {
    return queued("allgather_base", [&]() -> WorkPtr {
      auto shown_output = show(output);
      auto shown_input = show(input);
      return gloo_->_allgather_base(shown_output, shown_input, options);
    });
  }
  WorkPtr allgather_into_tensor_coalesced(Tensors& outputs, Tensors& inputs,
                                          const c10d::AllgatherOptions& options) override {
    return queued("allgather_coalesced", [&]() -> WorkPtr {
      auto shown_outputs = show(outputs);
      auto shown_inputs = show(inputs);
      return gloo_->allgather_into_tensor_coalesced(shown_outputs, shown_inputs, options);
    });
  }
  WorkPtr gather(std::vector<Tensors>& outputs, Tensors& inputs,
                 const c10d::GatherOptions& options) override {
    return queued("gather", [&]() -> WorkPtr {
      auto shown_outputs = show(outputs);
      auto shown_inputs = show(inputs);
      return gloo_->gather(shown_outputs, shown_inputs, options);
    });
  }
  WorkPtr scatter(Tensors& outputs, std::vector<Tensors>& inputs,
                  const c10d::ScatterOptions& options) override {
    return queued("scatter", [&]() -> WorkPtr {
      auto shown_outputs = show(outputs);
      auto shown_inputs = show(inputs);
      return gloo_->scatter(shown_outputs, shown_inputs, options);
    });
  }
  // Equal or not, a piece is reduced on all ranks, and its owner keeps it.
  WorkPtr reduce_scatter(Tensors& outputs, std::vector<Tensors>& inputs,
                         const c10d::ReduceScatterOptions& options) override {
    return queued("reduce_scatter", [&]() -> WorkPtr {
      auto shown_outputs = show(outputs);
      auto pieces = show(inputs);
      c10d::AllreduceOptions reduction;
      reduction.reduceOp = options.reduceOp;
      WorkPtr last;
      for (int owner = 0; owner < size_; owner++) {
        Tensors piece{pieces[0][owner].clone()};
        if (piece[0].numel() == 0) continue;
        last = gloo_->allreduce(piece, reduction);
        last->wait();
        if (owner == rank_) shown_outputs[0].copy_(piece[0]);
      }
      return last ? last : gloo_->barrier();
    });
  }
  WorkPtr _reduce_scatter_base(at::Tensor& output, at::Tensor& input,
                               const c10d::ReduceScatterOptions& options) override {
    return queued("reduce_scatter_base", [&]() -> WorkPtr {
      auto shown_output = show(output);
      auto shown_input = show(input);
      return gloo_->_reduce_scatter_base(shown_output, shown_input, options);
    });
  }
  WorkPtr reduce_scatter_tensor_coalesced(Tensors& outputs, Tensors& inputs,
                                          const c10d::ReduceScatterOptions& options) override {
    return queued("reduce_scatter_coalesced", [&]() -> WorkPtr {
      auto shown_outputs = show(outputs);
      auto shown_inputs = show(inputs);
      return gloo_->reduce_scatter_tensor_coalesced(shown_outputs, shown_inputs, options);
    });
  }
  WorkPtr alltoall_base(at::Tensor& output, at::Tensor& input, std::vector<int64_t>& output_sizes,
                        std::vector<int64_t>& input_sizes,
                        const c10d::AllToAllOptions& options) override {
    return queued("alltoall_base", [&]() -> WorkPtr {
      auto shown_output = show(output);
      auto shown_input = show(input);
      return gloo_->alltoall_base(shown_output, shown_input, output_sizes, input_sizes, options);
    });
  }
  WorkPtr alltoall(Tensors& outputs, Tensors& inputs,
                   const c10d::AllToAllOptions& options) override {
    return queued("alltoall", [&]() -> WorkPtr {
      auto shown_outputs = show(outputs);
      auto shown_inputs = show(inputs);
      return gloo_->alltoall(shown_outputs, shown_inputs, options);
    });
  }
  WorkPtr send(Tensors& tensors, int target, int tag) override {
    return queued("send", [&]() -> WorkPtr {
      auto shown = show(tensors);
      return gloo_->send(shown, target, tag);
    });
  }
  WorkPtr recv(Tensors& tensors, int source, int tag) override {
    return queued("recv", [&]() -> WorkPtr {
      auto shown = show(tensors);
      return gloo_->recv(shown, source, tag);
    });
  }
  WorkPtr barrier(const c10d::BarrierOptions& options) override {
    // A device's barrier is a reduction on the device, for which the host waits.
    wait_for_device("barrier");
    return gloo_->barrier(options);
  }
  void setSequenceNumberForGroup() override { gloo_->setSequenceNumberForGroup(); }
  uint64_t getSequenceNumberForGroup() override { return gloo_->getSequenceNumberForGroup(); }
  void setTimeout(std::chrono::milliseconds timeout) override { gloo_->setTimeout(timeout); }

 private:
  // The host goes on once a collective is in the queue. Nothing behind a stuck one is ever run.
  template <typename Run>
  WorkPtr queued(const char* collective, const Run& run) {
    note_call(std::string(kBackend) + " " + collective);
    return queue_is_stuck ? WorkPtr(c10::make_intrusive<InQueue>()) : run();
  }
  static at::Tensor show(const at::Tensor& tensor) {
    TORCH_CHECK(is_here(tensor), "No backend type associated with device type ",
                c10::DeviceTypeName(tensor.device().type(), /*lower_case=*/true));
    TORCH_CHECK(tensor.is_contiguous() || tensor.is_non_overlapping_and_dense(),
                "Tensors must be contiguous");
    return on_cpu(tensor);
  }
  static Tensors show(const Tensors& tensors) {
    Tensors shown;
    for (const auto& tensor : tensors) shown.push_back(show(tensor));
    return shown;
  }
  static std::vector<Tensors> show(const std::vector<Tensors>& lists) {
    std::vector<Tensors> shown;
    for (const auto& tensors : lists) shown.push_back(show(tensors));
    return shown;
  }

  const c10::intrusive_ptr<c10d::Backend> gloo_;
};

}  // namespace simulated
