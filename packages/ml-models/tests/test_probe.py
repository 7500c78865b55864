"""What a recording sees, and that it leaves a router's other observers alone."""

import torch
from model_checks.references import config_of, reference_of, weights_of, whole_model
from torch import Tensor

from ml_models import probe


def test_a_recording_and_other_observers_see_the_same_logits(alone: None) -> None:
    config, ids = config_of("hf_a", "gelu_erf"), reference_of("hf_a")["input_ids"]
    model = whole_model(config, weights_of("hf_a", config))
    positions = torch.arange(ids.shape[1]).expand_as(ids)
    router = probe.routers(model)[0]
    seen: list[Tensor] = []
    router.observers.append(seen.append)
    with probe.record(model) as outer, probe.record(model) as inner:
        model(ids, positions)
    torch.testing.assert_close(outer["router_logits.0"], seen[0], rtol=0, atol=0)
    torch.testing.assert_close(inner["router_logits.0"], seen[0], rtol=0, atol=0)
    assert set(outer) == {
        "final_norm",
        *(f"hidden_states.{layer}" for layer in range(config.num_layers + 1)),
        *(f"router_logits.{layer}" for layer in range(config.num_layers)),
    }
    assert router.observers == [seen.append]
    model(ids, positions)
    assert len(seen) == 2 and len(outer) == 2 * config.num_layers + 2
