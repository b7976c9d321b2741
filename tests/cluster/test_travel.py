"""Objects that reach the workers, and those that cannot."""

from __future__ import annotations

import pytest
import torch

from mgcda_dist.cluster.travel import check_travels
from mgcda_dist.errors import ConfigError


def test_functions_classes_and_tensors_travel():
    held = 3
    check_travels({"python:given:loss": lambda x: x + held, "python:given:sources_a": [torch.zeros(2)]})


def test_a_tensor_on_another_device_is_refused():
    where = torch.device("cuda") if torch.cuda.is_available() else torch.device("meta")
    with pytest.raises(ConfigError, match=rf"loss: the dict cannot be sent .*: it holds a tensor on {where}"):
        check_travels({"python:given:loss": {"weight": torch.zeros(1, device=where)}})
    with pytest.raises(ConfigError, match=r"__main__:Net: the generator cannot be sent"):
        check_travels({"python:__main__:Net": (n for n in range(3))})
