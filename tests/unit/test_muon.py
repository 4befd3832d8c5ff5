"""One optimizer of two: which parameters go where, one scheduler for both, and a step that AdamW alone would not make."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="the extra `train` is not installed")

from ponder.lab.model import Shape  # noqa: E402  after the skip
from ponder.lab.twin import build as twin  # noqa: E402
from ponder.learners import muon  # noqa: E402


@pytest.fixture
def model():
    torch.manual_seed(0)
    return twin(Shape(width=32, layers=2, heads=1, inner=48, positions=64))


def test_matrices_inside_the_layers_learn_by_muon_and_all_else_by_adamw(model):
    both = muon.build(model, 0.02)
    matrices, others = both.param_groups
    assert [len(group["params"]) for group in (matrices, others)] == [2 * 7, 1 + 2 * 2 + 1]
    assert matrices["lr"] == 0.02
    assert others["lr"] == pytest.approx(0.003)


def test_a_scheduler_reaches_both(model):
    both = muon.build(model, 0.02)
    scheduler = torch.optim.lr_scheduler.LambdaLR(both, lambda step: 0.5**step)
    both.step()
    scheduler.step()
    assert [group["lr"] for part in both.parts for group in part.param_groups] == pytest.approx([0.01, 0.0015])


def test_a_step_of_a_matrix_is_nearly_orthogonal(model):
    both = muon.build(model, 0.02)
    weight = model.layers[0].self_attn.q_proj.weight
    before = weight.detach().clone()
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    both.step()
    step = before * (1 - 0.02 * 0.01) - weight.detach()
    values = torch.linalg.svdvals(step)
    assert values.max() / values.median() < 2
    assert not torch.equal(before, weight.detach())
