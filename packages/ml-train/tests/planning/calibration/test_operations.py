"""Kinds of operators."""

from __future__ import annotations

import pytest
import torch

from ml_models.costs.operations import name_of
from ml_train.planning.calibration.operations import KINDS, kind_of

aten = torch.ops.aten


@pytest.mark.parametrize(
    ("operator", "kind"),
    [
        (aten.mul.Tensor, "new_result"),
        (aten.mul_.Tensor, "in_place"),
        (aten.copy_.default, "in_place"),
        (aten._to_copy.default, "new_result"),
        (aten.cat.default, "new_result"),
        (aten.gelu_backward.default, "function"),
        (aten.exp_.default, "function"),
        (aten._softmax.default, "function"),
        (aten.sum.dim_IntList, "reduction"),
        (aten.linalg_vector_norm.default, "reduction"),
        (aten.topk.default, "reduction"),
        (aten.index_select.default, "rows"),
        (aten.index_add_.default, "rows"),
        (aten.embedding_dense_backward.default, "rows"),
    ],
)
def test_an_operator_has_the_kind_that_decides_its_rate(
    operator: torch._ops.OpOverload, kind: str
) -> None:
    assert kind in KINDS
    assert kind_of(name_of(operator)) == kind
