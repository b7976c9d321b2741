"""Switches that do nothing are named with their reason and a remedy, and those that do something are not."""

from __future__ import annotations

import re
from typing import Any

import pytest

from mgcda_dist.checks.idle import idle
from mgcda_dist.config.schema import Config
from tests.support.configs import plain_content

_OFF, _ON = {"enabled": False}, {"enabled": True}
_BARE, _ONE_DOMAIN = {"labelled": False}, {"domain": "a"}


def _config(b: dict[str, Any], sections: dict[str, Any]) -> Config:
    """Streams a, labelled, and b with such changes."""
    content = plain_content(**sections)
    content["data"]["streams"][1] |= b
    return Config.model_validate(content)


@pytest.mark.parametrize(
    ("b", "sections", "says"),
    [
        (_ONE_DOMAIN, {"mdat": _OFF, "data": {"augment": {"style": 0.5}}}, r"data\.augment\.style: .* streams show a"),
        ({}, {"data": {"augment": {"class_mix": 0.5}}}, r"data\.augment\.class_mix: all streams are labelled"),
        ({}, {"mdat": _OFF | {"condition": "class"}}, r"mdat\.condition: MDAT is off.*mdat\.enabled=true"),
        ({}, {"mdat": _OFF | {"certainty": True}}, r"mdat\.certainty: MDAT is off"),
        ({}, {"mdat": {"weight": 0}}, r"mdat\.weight: it is 0.*mdat\.enabled=false"),
        ({}, {"mdat": {"lambda_max": 0}}, r"mdat\.lambda_max: it is 0"),
        ({}, {"mdat": {"stages": [{"name": "stride16"}, {"name": "embedding", "weight": 0}]}},
         r"mdat\.stages\.1\.weight: it is 0, so the discriminator of embedding"),
        ({}, {"mdat": {"mask_width": "receptive_field", "mask_anomalies": False}}, r"mdat\.mask_width: mdat\.mask_an"),
        ({}, {"cacl": {"weight": 0}}, r"cacl\.weight: it is 0.*cacl\.enabled=false"),
        (_ONE_DOMAIN, {"mdat": _OFF, "cacl": {"cross_domain": False}}, r"cacl\.cross_domain: all streams show a"),
        ({}, {"cacl": {"unlabelled_confidence": 0.9}}, r"cacl\.unlabelled_confidence: all streams are labelled"),
        (_BARE, {"cacl": {"unlabelled_confidence": 1}}, r"cacl\.unlabelled_confidence: no probability exceeds 1"),
        *(
            ({}, {"cacl": {"contrast": "distribution", name: value}}, rf"cacl\.{name}: cacl\.contrast=distribution")
            for name, value in
            {"queue_rows": 8, "num_positives": 8, "num_negatives": 8, "hard_negative_fraction": 0.1}.items()
        ),
        ({}, {"cacl": {"negatives_by": "similarity", "hard_negative_fraction": 0}}, r"cacl\.negatives_by: .* is none"),
        ({}, {"cacl": {"queue_rows": 0, "queue_rows_per_image": 4}}, r"cacl\.queue_rows_per_image: cacl\.queue"),
        ({}, {"teacher": _ON}, r"teacher\.enabled: all streams are labelled"),
        (_BARE, {"teacher": _ON | {"contrast": True}, "cacl": _OFF}, r"teacher\.contrast: CACL is off"),
        (_BARE, {"teacher": _ON | {"confidence": 1}}, r"teacher\.confidence: .* for example to 0\.968"),
        (_BARE, {"teacher": _ON | {"score_quantile": 0}}, r"teacher\.score_quantile: .* for example to 0\.95"),
    ],
)  # fmt: skip
def test_a_switch_that_does_nothing_is_named(b: dict[str, Any], sections: dict[str, Any], says: str) -> None:
    found = list(idle(_config(b, sections)))
    assert len(found) == 1 and re.match(says, found[0]) and "; " in found[0], found


@pytest.mark.parametrize(
    ("b", "sections"),
    [
        ({}, {}),
        (_ONE_DOMAIN, {"mdat": _OFF}),
        ({}, {"mdat": {"enabled": False, "weight": 0, "lambda_max": 0, "target": "hard"}}),
        ({}, {"mdat": {"condition": "class", "certainty": True, "mask_anomalies": False}}),
        ({}, {"cacl": {"enabled": False, "weight": 0, "queue_rows": 0, "queue_rows_per_image": 4}}),
        ({}, {"cacl": {"queue_rows": 0}}),
        ({}, {"cacl": {"hard_negative_fraction": 0}}),
        ({}, {"cacl": {"contrast": "distribution", "queue_rows_per_image": 4}}),
        (_BARE, {"cacl": {"unlabelled_confidence": 0.9}, "data": {"augment": {"style": 0.5, "class_mix": 0.5}}}),
        (_BARE, {"teacher": _ON | {"contrast": True}}),
        ({}, {"teacher": _ON | {"weight": 0, "confidence": 1}}),  # the average alone
    ],
)
def test_a_switch_that_does_something_is_not(b: dict[str, Any], sections: dict[str, Any]) -> None:
    assert list(idle(_config(b, sections))) == []
