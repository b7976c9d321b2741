import subprocess
from pathlib import Path

from mgcda_dist.tracking.provenance import git_commit, provenance_tags


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    done = subprocess.run(["git", "-C", str(folder), *identity, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_commit_and_cleanliness(tmp_path: Path) -> None:
    assert git_commit(tmp_path) == ("", False)
    git(tmp_path, "init", "-q")
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-q", "-m", "one")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert git_commit(tmp_path) == (commit, True)
    (tmp_path / "untracked").write_text("2")
    assert git_commit(tmp_path) == (commit, True)
    (tmp_path / "a").write_text("2")
    assert git_commit(tmp_path) == (commit, False)
    tags = provenance_tags(tmp_path)
    assert tags["mlflow.source.git.commit"] == commit and tags["mgcda.git_clean"] == "false"
    assert all(isinstance(value, str) and value for value in tags.values())
    assert "mlflow.source.git.commit" not in provenance_tags(tmp_path / "nowhere")
