"""Streams without labels in the shipped configurations: those that are doubtful are so on purpose."""

from __future__ import annotations

from mgcda_dist.checks.domains import unaligned
from mgcda_dist.checks.idle import idle
from mgcda_dist.checks.unlabelled import unlabelled
from mgcda_dist.config.load import load_config
from mgcda_dist.config.sweep import is_sweep_file
from tests.conftest import REPOSITORY

CONFIGS = REPOSITORY / "configs"
NOTHING_IS_NORMAL, NO_INLIER = "objects are pasted onto frames", "CACL anomalies and no inlier"
ON_PURPOSE = {  # of what is said without shards
    "benchmark/synthetic_to_real/baseline.yaml": [NOTHING_IS_NORMAL],  # all rows share their data, and `full` adds the
    "benchmark/synthetic_to_real/mdat.yaml": [NOTHING_IS_NORMAL],  # teacher that says what is normal there
    "benchmark/synthetic_to_real/cacl.yaml": [NO_INLIER, NOTHING_IS_NORMAL],
    "benchmark/synthetic_to_real/paper.yaml": [NO_INLIER, NOTHING_IS_NORMAL],
    "benchmark/synthetic_to_real/full.yaml": [NO_INLIER],  # teacher.contrast is a row of full_parts.yaml
    "paper.yaml": [NO_INLIER, NOTHING_IS_NORMAL],  # MDAT and CACL as in the paper, which names no teacher
}


def test_what_is_doubtful_in_a_shipped_configuration_is_so_on_purpose() -> None:
    """Those of configs/methods are the data of a row above, with a loss and a score of their own."""
    found: dict[str, list[str]] = {}
    for file in sorted(CONFIGS.rglob("*.yaml")):
        name = file.relative_to(CONFIGS).as_posix()
        if not is_sweep_file(file) and not name.startswith("methods/"):
            config = load_config(file).config
            found[name] = [*unaligned(config, {}), *unlabelled(config), *idle(config)]
    assert {name: len(said) for name, said in found.items() if said} == {n: len(said) for n, said in ON_PURPOSE.items()}
    for name, expected in ON_PURPOSE.items():
        assert all(text in said for text, said in zip(expected, found[name], strict=True)), found[name]
