"""The exported model in MLflow: logged once, registered, loaded where nothing but its requirements is, served."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packaging.requirements import Requirement

from mgcda_dist.inference.model import load_exported
from mgcda_dist.inference.pyfunc import ScoreFunction
from mgcda_dist.tracking.mlflow_client import connect, quiet
from mgcda_dist.tracking.mlflow_model import log_model, save_model
from tests.support.network import free_port, wait_until_it_answers

_LOAD = """
import sys
sys.path[:] = [path for path in sys.path if path] + [{packages!r}]
sys.modules |= dict.fromkeys({blocked!r})  # none of them can be imported
import mlflow.pyfunc, numpy as np
model = mlflow.pyfunc.load_model({uri!r})
found = model.predict(np.load({image!r}))
import mgcda_dist
assert mgcda_dist.__file__.startswith({code!r}), mgcda_dist.__file__
assert not [name for name in sys.modules if name.startswith(("mgcda_dist.training", "mgcda_dist.config"))]
np.savez({out!r}, **found)
"""


@pytest.fixture(scope="module")
def saved(run: Path) -> Path:
    connect(f"sqlite:///{run.parent}/mlflow.db")
    with quiet():
        save_model(run / "model", run / "saved")
    return run / "saved"


def images(count: int = 2) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 50, 70, 3)).astype(np.uint8)


def installed_by(requirements: Path) -> set[str]:
    """Names of all distributions that `pip install -r` brings, after their metadata."""
    waiting = [Requirement(line) for line in requirements.read_text().splitlines() if line.strip()]
    found: dict[str, set[str]] = {}
    while waiting:
        wanted = waiting.pop()
        name = wanted.name.lower().replace("_", "-")
        if name in found and wanted.extras <= found[name]:
            continue
        found[name] = found.get(name, set()) | wanted.extras
        try:
            needs = distribution(name).requires or []
        except PackageNotFoundError:  # for another platform
            continue
        for line in needs:
            need = Requirement(line)
            extras = found[name] or {""}
            if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(need)
    return set(found)


def test_the_model_has_signature_example_requirements_and_no_pickle(saved: Path) -> None:
    from mlflow.models import Model

    facts = Model.load(str(saved))
    assert facts.signature is not None
    assert [spec.shape for spec in facts.signature.inputs] == [(-1, -1, -1, 3)]
    assert [spec.name for spec in facts.signature.outputs] == ["score", "classes"]
    assert np.asarray(facts.load_input_example(str(saved))).shape == (1, 64, 96, 3)
    assert facts.metadata is not None and facts.metadata["score"] == "energy"
    assert facts.metadata["class_names"][0] == "road"
    names = {path.name for path in saved.rglob("*") if path.is_file()}
    assert {"requirements.txt", "model.safetensors", "model.json", "pyfunc.py"} <= names
    assert not [name for name in names if name.endswith((".pkl", ".pth", ".pt", ".pyc"))]
    code = {path.relative_to(saved / "code/mgcda_dist").parts[0] for path in (saved / "code").rglob("*.py")}
    assert not {"training", "mdat", "cacl", "config"} & code


def test_it_is_logged_and_registered_once(run: Path, saved: Path) -> None:
    client = connect(f"sqlite:///{run.parent}/mlflow.db")
    experiment = client.create_experiment("models", artifact_location=(run.parent / "mlartifacts").as_uri())
    record = client.create_run(experiment, run_name="tiny", tags={"mlflow.note.content": "what it is"})
    first = log_model(client, record, run / "model")
    assert log_model(client, record, run / "model", "roads") == first
    assert log_model(client, record, run / "model", "roads") == first
    outputs = client.get_run(record.info.run_id).outputs
    assert outputs is not None and [output.model_id for output in outputs.model_outputs] == [first]
    (version,) = client.search_model_versions("name = 'roads'")
    assert version.version == 1 or version.version == "1"
    assert version.run_id == record.info.run_id and version.description == "what it is"
    model = client.get_logged_model(first)
    assert model.status == "READY" and model.params["backbone"] == "test_resnet.r160_in1k"


@pytest.mark.slow
def test_its_requirements_are_enough(run: Path, saved: Path, tmp_path: Path) -> None:
    """As in a fresh environment: what `requirements.txt` does not bring cannot be imported, nor this repository."""
    np.save(tmp_path / "images.npy", images())
    brought = installed_by(saved / "requirements.txt")
    assert {"torch", "timm", "mlflow"} <= brought and not {"ray", "deepspeed", "opencv-python-headless"} & brought
    blocked = {
        module
        for module, owners in packages_distributions().items()
        if not {owner.lower().replace("_", "-") for owner in owners} & brought
        and module not in ("pip", "setuptools", "_distutils_hack", "pkg_resources")
    } - {"mgcda_dist"}
    assert {"ray", "deepspeed", "cv2", "typer", "webdataset"} <= blocked
    script = _LOAD.format(
        packages=str(Path(np.__file__).parents[1]), blocked=blocked, uri=str(saved), image=str(tmp_path / "images.npy"),
        out=str(tmp_path / "out.npz"), code=str(saved / "code"),
    )  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        # Without `site`, which would put this repository on the path.
        [sys.executable, "-S", "-c", script], capture_output=True, text=True, timeout=240, check=False,
        env=environment, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "out.npz")
    expected = ScoreFunction(load_exported(run)).predict(images())
    assert found["classes"].shape == (2, 50, 70) and found["classes"].dtype == np.uint8
    # Images are resized within a grey level of OpenCV, which is not there.
    assert found["score"] == pytest.approx(expected["score"], abs=0.02 * float(np.ptp(expected["score"])))


def test_images_of_another_form_are_refused(run: Path) -> None:
    function = ScoreFunction(load_exported(run))
    with pytest.raises(ValueError, match="uint8 N×H×W×3"):
        function.predict(images()[0])
    with pytest.raises(ValueError, match="float64"):
        function.predict(images().astype(float))
    own, resized = (function.predict(images(1), {"height_px": height})["score"] for height in (0, -1))
    assert own.shape == resized.shape and not np.array_equal(own, resized)


@pytest.mark.extended
@pytest.mark.timeout(600)
def test_a_served_model_gives_the_score_map_of_an_image(run: Path, saved: Path, tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(saved), "--env-manager", "local"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    log = tmp_path / "serve.log"
    # MLflow starts `uvicorn` by name; the environment of this Python need not be the one that is activated.
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True, cwd=tmp_path, env=env)
    try:
        wait_until_it_answers(f"http://127.0.0.1:{port}/ping", process, log)
        answer = ask(f"http://127.0.0.1:{port}/invocations", {"inputs": images(1).tolist(), "params": {"height_px": 0}})
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)
    expected = ScoreFunction(load_exported(run)).predict(images(1), {"height_px": 0})
    assert np.array(answer["predictions"]["score"]) == pytest.approx(expected["score"], abs=1e-4)
    assert np.array_equal(np.array(answer["predictions"]["classes"]), expected["classes"])


def ask(url: str, content: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(
        url, data=json.dumps(content).encode(), headers={"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise AssertionError(error.read().decode()) from None
