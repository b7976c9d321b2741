"""MLflow for the tests of this folder: its environment variables do not outlive a file."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.support.mlflow_server import MlflowServer


@pytest.fixture(scope="module", autouse=True)
def _environment() -> Iterator[None]:
    """MLflow sets variables when it is imported; later files start without them."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A running server, whose outages are noticed at once: MLflow itself would try again for a while."""
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    server = MlflowServer(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.stop()
