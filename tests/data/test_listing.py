"""Files below a folder; what the readers of data sets make of them is tested with `shards/sources`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from mgcda_dist.data.listing import files_below
from mgcda_dist.errors import MgcdaError


def test_a_folder_that_cannot_be_read_is_no_empty_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "locked").mkdir()
    scandir = os.scandir

    def refuse(path: str) -> Any:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(MgcdaError, match="locked: the folder cannot be read: Permission denied"):
        files_below(tmp_path)
