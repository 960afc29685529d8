import torch

from mimflow_train.engine import all_reduce
from mimflow_train.engine.all_reduce import mean_over_workers


def test_what_is_sent_is_contiguous_as_nccl_wants_it(monkeypatch):
    sent = []
    monkeypatch.setattr(all_reduce.dist, "all_reduce", sent.append)
    (mean,) = mean_over_workers([torch.arange(6.0).reshape(3, 2).T], 2)
    assert [each.is_contiguous() for each in sent] == [True]
    assert mean.tolist() == [[0.0, 1.0, 2.0], [0.5, 1.5, 2.5]]
