"""Eval mode for a while, and every module's own mode afterwards."""

from __future__ import annotations

import pytest
from torch import nn

from facestream.models.networks.eval_mode import in_eval_mode


@pytest.mark.parametrize("fails", [False, True])
def test_every_module_gets_its_own_mode_back_also_after_an_error(fails: bool) -> None:
    frozen = nn.BatchNorm1d(2).eval()  # in a network that trains
    network = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout(), frozen))
    modes = [module.training for module in network.modules()]
    assert True in modes and False in modes
    try:
        with in_eval_mode(network):
            assert not any(module.training for module in network.modules())
            if fails:
                raise KeyError
    except KeyError:
        assert fails
    assert [module.training for module in network.modules()] == modes
