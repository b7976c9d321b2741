"""Tables of choices hold every name of their list, and each name has its function and its fields."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from mgcda_dist import choices
from mgcda_dist.choices import OutlierKind, ScoreKind, SmoothingMode
from mgcda_dist.config.method import SegmentationLossConfig
from mgcda_dist.method.mdat.smoothing import SMOOTHING_FUNCTIONS
from mgcda_dist.models.outlier_losses import LOSS_FUNCTIONS
from mgcda_dist.models.scores import SCORE_FUNCTIONS


@pytest.mark.parametrize(
    ("kind", "tables"),
    [
        (ScoreKind, (choices.SCORES, SCORE_FUNCTIONS)),
        (OutlierKind, (choices.OUTLIER_LOSSES, {"none": None} | LOSS_FUNCTIONS)),
        (SmoothingMode, (choices.SMOOTHING_MODES, SMOOTHING_FUNCTIONS)),
        (choices.KnownClassSpace, (choices.CLASS_SPACES,)),
    ],
)
def test_tables_hold_every_name_of_their_list(kind: Any, tables: tuple[dict[str, Any], ...]) -> None:
    assert all(set(table) == set(get_args(kind)) for table in tables)


@pytest.mark.parametrize("kind", choices.OUTLIER_LOSSES)
def test_every_limit_of_a_loss_is_a_field_with_its_default(kind: OutlierKind) -> None:
    for name, value in choices.OUTLIER_LOSSES[kind].limits.items():
        assert SegmentationLossConfig.model_fields[name].default == value
