"""Packages beside the base of the installation: the extra that brings each, and the error where one is missing."""

from __future__ import annotations

from importlib.util import find_spec

from mgcda_dist.errors import MgcdaError, install_extra

__all__ = ["EXTRAS", "TRAINING", "missing_package", "need"]

TRAINING = ("ray", "deepspeed", "mlflow", "psutil")
"""Packages, by the name that is imported, without which nothing is trained."""

EXTRAS = {
    **dict.fromkeys(TRAINING, "train"),
    "h5py": "maps",
    "fsspec": "remote",
    "aiohttp": "remote",
    "s3fs": "remote",
    "segmentation_models_pytorch": "networks",
    "transformers": "networks",
    "onnxruntime": "onnx",
    "onnxscript": "onnx",
    "tensorboard": "tensorboard",
    "wandb": "wandb",
}
"""Package, by the name that is imported → the extra of pyproject.toml that brings it."""


def need(where: str, *packages: str) -> None:
    """Refuse work before it begins where a package of an extra is not installed. Imports none of them.

    Args:
        where: the work, for the message: a command, an option, a file.
        packages: by the names that are imported, from `EXTRAS`.

    Raises:
        MgcdaError: names what is missing, and the extra that brings it.
    """
    absent = [name for name in packages if not _is_there(name)]
    if absent:
        verb = "is" if len(absent) == 1 else "are"
        extras = list(dict.fromkeys(EXTRAS[name] for name in absent))
        raise MgcdaError(where, f"{', '.join(absent)} {verb} not installed", install_extra(",".join(extras)))


def missing_package(error: ModuleNotFoundError) -> MgcdaError | None:
    """The error for a failed import of a package of an extra; None: the package belongs to none."""
    name = (error.name or "").partition(".")[0]
    if name not in EXTRAS:
        return None
    return MgcdaError(name, "is not installed, and this needs it", install_extra(EXTRAS[name]))


def _is_there(name: str) -> bool:
    try:
        found = find_spec(name)
        return found is not None and found.origin is not None  # a folder of this name is no package
    except (ValueError, ModuleNotFoundError):  # made impossible to import: an entry of sys.modules without a file
        return False
