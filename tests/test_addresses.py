"""Tokens in addresses are refused where passwords are, and never repeated."""

from __future__ import annotations

import json

import pytest

from mgcda_dist.addresses import has_secret, without_secrets
from mgcda_dist.config.load import load_config
from mgcda_dist.errors import ConfigError
from tests.conftest import REPOSITORY
from tests.support.commands import refusal


@pytest.mark.parametrize(
    "address",
    [
        "http://ghp_planted@server:5000",
        "https://planted@store/shards",
        "https://store/shards?sig=planted",
        "https://store/shards?X-Amz-Credential=planted&X-Amz-Signature=planted",
        "https://store/shards#access_token=planted",
        "https://store/{}?version=planted12345678901234567890",
        "postgresql://planted12345678901234567890@server/mlflow",
        "http://somebody:plan/ted@server:5000",
        "shards pipe:curl -s https://planted@store/{}",
    ],
)
def test_a_token_in_an_address_is_refused_and_not_repeated(address: str) -> None:
    assert has_secret(address) and "planted" not in without_secrets(address).replace("plan/ted", "planted")
    with pytest.raises(ConfigError, match="a password or a token") as caught:
        load_config(REPOSITORY / "configs/demo.yaml", [f"data.streams.0.shards={json.dumps(address)}"])
    assert "planted" not in str(caught.value) and "plan/ted" not in str(caught.value)
    assert "a token" in str(
        refusal("evaluate", "--maps", ".", "--data", f"x={address.replace('shards pipe', '. pipe')}")
    )
    assert "a token" in str(refusal("sync", ".", "--mlflow-uri", address))


@pytest.mark.parametrize(
    "address",
    [
        "http://mlflow:5000", "postgresql://me@server/mlflow", "https://store/a?version=3&keyframe=1", "s3://bucket/a@b",
        "sqlite:////home/me@work/mlflow.db", "postgresql://server/mlflow?sslmode=require", "sftp://me@host/shards",
        "https://store/a?author=somebody", "databricks://profile",
    ],
)  # fmt: skip
def test_addresses_without_secrets_pass(address: str) -> None:
    assert not has_secret(address)
