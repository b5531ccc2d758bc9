import pytest
import torch

from dcal_lite.losses import UncertaintyWeighting, batch_hard_triplet
from tests.oracles import triplet_by_loops


@pytest.fixture
def batch():
    features = torch.randn(8, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    return features, torch.tensor([0, 0, 1, 1, 2, 2, 2, 3])


@pytest.mark.parametrize("margin", [None, 0.3])
def test_triplet_equals_loops_with_gradient(batch, margin):
    features, labels = batch
    fast, slow = batch_hard_triplet(features, labels, margin=margin), triplet_by_loops(features, labels, margin)
    torch.testing.assert_close(fast, slow)
    gradients = [torch.autograd.grad(loss, features, retain_graph=True)[0] for loss in (fast, slow)]
    assert gradients[0].abs().max() > 0
    lonely = labels == 3  # its farthest positive is itself: the loop's sqrt has no gradient at 0, ours is 0
    torch.testing.assert_close(gradients[0][~lonely], torch.nan_to_num(gradients[1])[~lonely])
    assert torch.isfinite(gradients[0]).all()


def test_triplet_needs_two_identities(batch):
    with pytest.raises(ValueError, match="at least two identities"):
        batch_hard_triplet(batch[0], torch.zeros(8, dtype=torch.long))


def test_triplet_of_half_precision_features_is_float32(batch):
    features, labels = batch
    assert batch_hard_triplet(features.bfloat16(), labels).dtype == torch.float32


def test_uncertainty_equals_the_closed_form_with_gradient():
    weighting = UncertaintyWeighting(["sa", "glca", "pwca"]).double()
    values = {"sa": 0.7, "glca": 1.9, "pwca": 0.2}
    for w, start in zip(weighting.w.values(), (0.3, -0.5, 1.1), strict=True):
        w.data.fill_(start)
    losses = {b: torch.tensor(v, dtype=torch.float64, requires_grad=True) for b, v in values.items()}
    total = weighting(losses)
    w = {b: p.item() for b, p in weighting.w.items()}
    exp = {b: torch.tensor(-w[b], dtype=torch.float64).exp().item() for b in w}
    assert total.item() == pytest.approx(0.5 * sum(exp[b] * values[b] + w[b] for b in w))
    total.backward()
    for b in w:
        assert losses[b].grad.item() == pytest.approx(0.5 * exp[b])
        assert weighting.w[b].grad.item() == pytest.approx(0.5 * (1 - exp[b] * values[b]))


def test_uncertainty_is_least_at_log_loss_and_may_be_negative():
    weighting = UncertaintyWeighting(["sa"]).double()
    losses = {"sa": torch.tensor(0.05, dtype=torch.float64)}
    weighting.w["sa"].data = losses["sa"].log()
    total = weighting(losses)
    total.backward()
    assert weighting.w["sa"].grad.item() == pytest.approx(0, abs=1e-12)
    assert total.item() == pytest.approx(0.5 * (1 + losses["sa"].log().item())) and total.item() < 0


def test_uncertainty_names_missing_branches():
    with pytest.raises(ValueError, match="branches glca, sa expected, got sa"):
        UncertaintyWeighting(["sa", "glca"])({"sa": torch.tensor(1.0)})
