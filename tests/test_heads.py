import pytest
import torch

from dcal_lite.heads import BNNeckHead, LinearHead, Output, create_head


def test_embedding_and_prediction_leave_pwca_out_and_follow_the_definitions():
    sa, glca, pwca = torch.randn(3, 4, 6, dtype=torch.float64)
    output = Output({"sa": sa, "glca": glca, "pwca": pwca}, {"sa": sa, "glca": glca, "pwca": pwca})
    rows = [torch.cat([a / a.norm(), b / b.norm()]) for a, b in zip(sa, glca, strict=True)]
    torch.testing.assert_close(output.embedding, torch.stack(rows))
    added = sa.exp() / sa.exp().sum(1, keepdim=True) + glca.exp() / glca.exp().sum(1, keepdim=True)
    torch.testing.assert_close(output.prediction, added / 2)
    torch.testing.assert_close(output.prediction.sum(1), torch.ones(4, dtype=torch.float64))


def test_bnneck_normalises_by_the_batch_and_tracks_only_when_told():
    head = BNNeckHead(6, 3).double()
    features = torch.randn(8, 6, dtype=torch.float64) * 3 + 1
    before, calls = head.norm.running_mean.clone(), []
    head.norm.register_forward_hook(lambda *_: calls.append(head.norm.training))
    untracked = head(features, track=False)
    torch.testing.assert_close(head.norm.running_mean, before)
    assert head.norm.num_batches_tracked == 0
    assert calls == [True]  # the module itself, which several GPUs replace by SyncBatchNorm
    normal = (features - features.mean(0)) / (features.var(0, unbiased=False) + head.norm.eps).sqrt()
    torch.testing.assert_close(untracked, normal @ head.classifier.weight.T)
    torch.testing.assert_close(head(features), untracked)
    torch.testing.assert_close(head.norm.running_mean, 0.1 * features.mean(0))
    head.eval()
    torch.testing.assert_close(head(features, track=False), head(features))


def test_bnneck_has_no_learned_shift():
    head = BNNeckHead(6, 3)
    trained = {name for name, p in head.named_parameters() if p.requires_grad}
    assert trained == {"norm.weight", "classifier.weight"}


def test_factory():
    assert isinstance(create_head("linear", 4, 2), LinearHead)
    assert isinstance(create_head("bnneck", 4, 2), BNNeckHead)
    with pytest.raises(ValueError, match="did you mean 'bnneck'"):
        create_head("bneck", 4, 2)
