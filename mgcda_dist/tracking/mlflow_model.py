"""The exported model as MLflow's model of a run: signature, input example, requirements, code; registered on demand.

The flavour is `python_function` with a loader module: safetensors and JSON, no pickle. The modules that it needs lie
beside the weights, so that `requirements.txt` of the model is all that a fresh environment has to install.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mgcda_dist import __version__
from mgcda_dist.choices import RunFile
from mgcda_dist.tracking.mlflow_client import quiet
from mgcda_dist.tracking.mlflow_names import clean_name
from mgcda_dist.tracking.tags import Tag
from mgcda_dist.trust import read_object

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run

__all__ = ["log_model", "save_model"]

_LOADER = "mgcda_dist.inference.pyfunc"
_NEEDED = ("torch", "torchvision", "timm", "safetensors", "numpy", "pillow", "pydantic", "mlflow")
_CODE = (
    "__init__.py", "choices.py", "errors.py", "files.py", "py.typed", "data/__init__.py", "data/pixels.py",
    "evaluation/__init__.py", "evaluation/test_time.py", "evaluation/whole_float32.py", "inference/__init__.py",
    "inference/model.py", "inference/pyfunc.py", "method", "models", "plugins", "references.py", "text.py", "trust.py",
)  # fmt: skip
_DIGEST = "mgcda.weights_sha256"
_EXAMPLE_PX = 64, 96


def log_model(client: MlflowClient, run: Run, folder: Path, register_as: str | None = None) -> str:
    """Log an exported model (`model.safetensors`, `model.json`) to a run; what the run has already is not logged again.

    Args:
        folder: with the exported model.
        register_as: registered model that gets it as its next version; made when absent. None: not registered.

    Returns:
        MLflow's id of the model, for `models:/ID`.
    """
    weights = folder / RunFile.WEIGHTS
    if not weights.is_file():
        raise FileNotFoundError(f"{weights} is not there any more")
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    with quiet():
        model = _logged(client, run, digest) or _log(client, run, folder, digest)
        if register_as is not None:
            _register(client, run, model, register_as, digest)
    return model.model_id


def save_model(folder: Path, to: Path, *, model_id: str | None = None, run_id: str | None = None) -> None:
    """Write an exported model in MLflow's format, for `mlflow models serve -m TO` and `mlflow.pyfunc.load_model(TO)`.

    Args:
        folder: with the exported model.
        to: folder that does not exist yet, or is empty.
        model_id: MLflow's, if it has one.
        run_id: MLflow's, if it has one.
    """
    import mlflow.pyfunc
    import numpy as np
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec
    from mlflow.types.schema import DataType

    image = np.arange(3 * _EXAMPLE_PX[0] * _EXAMPLE_PX[1], dtype=np.int64) % 251
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, -1, 3))]),
        outputs=Schema(
            [
                TensorSpec(np.dtype(np.float32), (-1, -1, -1), "score"),
                TensorSpec(np.dtype(np.uint8), (-1, -1, -1), "classes"),
            ]
        ),
        params=ParamSchema([ParamSpec("height_px", DataType.long, -1)]),
    )
    metadata = _metadata(folder)
    with tempfile.TemporaryDirectory() as temporary:
        data = Path(temporary) / "model"
        data.mkdir()
        for name in (RunFile.WEIGHTS, RunFile.METADATA):
            shutil.copyfile(folder / name, data / name)
        mlflow.pyfunc.save_model(
            to,
            loader_module=_LOADER,
            data_path=str(data),
            code_paths=[str(_code(Path(temporary)))],
            mlflow_model=Model(run_id=run_id, model_id=model_id),
            signature=signature,
            input_example=image.astype(np.uint8).reshape(1, *_EXAMPLE_PX, 3),
            pip_requirements=[f"{name}=={version(name)}" for name in _NEEDED],
            metadata={"mgcda": __version__, "class_names": metadata.get("class_names"), "score": metadata.get("score")},
        )


def _code(folder: Path) -> Path:
    """A copy of the modules that load and run a model, and of nothing else."""
    package = Path(__file__).parents[1]
    copy = folder / package.name
    for name in _CODE:
        source, target = package / name, copy / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, target)
    return copy


def _metadata(folder: Path) -> dict[str, Any]:
    """The content of `model.json`: `models.exported.ModelMetadata` as JSON, which this component does not import."""
    return read_object(folder / RunFile.METADATA)


def _logged(client: MlflowClient, run: Run, digest: str) -> LoggedModel | None:
    """The run's model with these weights, if it has one."""
    outputs = client.get_run(run.info.run_id).outputs
    for output in outputs.model_outputs if outputs is not None else []:
        model = client.get_logged_model(output.model_id)
        if model.tags.get(_DIGEST) == digest:
            return model
    return None


def _log(client: MlflowClient, run: Run, folder: Path, digest: str) -> LoggedModel:
    from mlflow.entities import LoggedModelOutput

    metadata = _metadata(folder)
    config = metadata.get("config", {})
    run_id = run.info.run_id
    model = client.create_logged_model(
        run.info.experiment_id,
        name=str(run.info.run_name or metadata.get("name", "model")).replace("/", "-"),
        source_run_id=run_id,
        tags={_DIGEST: digest, "mgcda.classes": ", ".join(metadata.get("class_names", []))},
        params={
            "backbone": str(config.get("model", {}).get("backbone")),
            "score": str(metadata.get("score")),
            "height_px": str(metadata.get("height_px")),
            **{key: str(metadata[key]) for key in ("longest_side_px",) if key in metadata},
        },
        model_type="anomaly-segmentation",
    )
    try:
        with tempfile.TemporaryDirectory() as temporary:
            written = Path(temporary) / "model"
            save_model(folder, written, model_id=model.model_id, run_id=run_id)
            client.log_model_artifacts(model.model_id, str(written))
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, config.get("optim", {}).get("steps", 0))])
        return client.finalize_logged_model(model.model_id, "READY")
    except BaseException:
        with suppress(Exception):  # half a model is of no use; the next attempt makes another
            client.delete_logged_model(model.model_id)
        raise


def _register(client: MlflowClient, run: Run, model: LoggedModel, name: str, digest: str) -> None:
    from mlflow.exceptions import MlflowException

    run_id = run.info.run_id
    try:
        client.create_registered_model(name, description="Road anomaly segmentation: image in, score map out.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    quoted = name.replace("'", "\\'")
    versions = client.search_model_versions(f"name = '{quoted}' and run_id = '{run_id}'")
    if any(one.tags.get(_DIGEST) == digest for one in versions):
        return
    # A server looks the model up itself; a database would be asked under the URI of the process, which is another.
    served = client.tracking_uri.startswith("http")
    client.create_model_version(
        name,
        source=f"models:/{model.model_id}" if served else str(model.artifact_location),
        run_id=run_id,
        tags={_DIGEST: digest, "mgcda.run": clean_name(str(run.info.run_name))},
        description=client.get_run(run_id).data.tags.get(Tag.NOTE),
        model_id=model.model_id,
    )
