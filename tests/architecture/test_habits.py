"""Rules that no linter checks: output and exits, docstrings, the tests' layout, generators, pinned versions."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from typer.main import get_command

import mgcda_dist
from mgcda_dist.cli.main import app

ROOT = Path(mgcda_dist.__file__).parents[1]
PACKAGE = ROOT / "mgcda_dist"
FILES = sorted(PACKAGE.rglob("*.py"))
EXITS = {"exit", "quit", "sys.exit", "os._exit", "SystemExit"}
QUESTION_WORDS = {"What", "Where", "How", "Whether", "Which", "Who", "When", "Why"}
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))
BESIDE_THE_MIRROR = {
    "architecture": "the repository as a whole",
    "documents": "tutorials and notebooks, followed",
    "multiprocess": "the method and the examples on several real processes",
    "test_bench.py": "benchmarks/bench, the ratios of the system, and its trial",
    "test_base_layer.py": "the wheel with the base of its dependencies alone",
    "test_border.py": "no command on a folder of others leaves it, over all commands",
    "test_gpu_check.py": "benchmarks/gpu, the check of a GPU, and its trial on processors",
    "test_fuzz.py": "damaged documents of every kind, in all rooms that read them",
    "test_trust.py": "the promises of SECURITY.md, over all rooms",
    "cluster/test_full_disk.py": "a real training on a disk that fills up",
    "cluster/test_jobs.py": "`ray job submit` on a real cluster",
    "cluster/test_mlflow_server.py": "the tracking server of cluster/, served by a real database",
    "cluster/test_node_faults.py": "nodes that are killed under a running training",
    "cluster/test_own_data.py": "a real training on a Dataset of the user",
    "cluster/test_python_page.py": "docs/python.md, python-runs.md: one program from its own network to its comparison",
    "cluster/test_slurm.py": "cluster/slurm/train.sbatch",
    "cluster/test_sweep_command.py": "`mgcda sweep` as users run it",
    "cluster/test_train.py": "`mgcda train` from the command to the report",
    "cluster/test_two_nodes.py": "one training over two nodes",
    "data/shards/test_scale.py": "opening and planning over a very large set of shards",
    "inference/test_pretrained.py": "the weights and the card of mgcda_dist/pretrained",
    "method/cacl/test_fixed_shapes.py": "shapes and host reads of a step of CACL, over all its files",
    "method/test_accumulation.py": "law 1 over micro-batches, through the whole method",
    "method/test_one_graph.py": "the whole method, traced by a compiler",
    "plugins/test_losses.py": "losses and scores of all plug-ins, against loops over pixels",
    "plugins/test_networks.py": "plug-ins on networks of transformers, with MGCDA and without",
    "plugins/test_page.py": "docs/add-a-method.md: a method of a user's own",
    "reports/test_browser.py": "the report in a real browser",
    "tracking/test_mlflow_browser.py": "MLflow's pages in a real browser",
    "tracking/test_mlflow_server.py": "tracking through a real server",
    "tracking/test_waiting.py": "a tracker that accepts connections and never answers",
    "training/checkpoint/test_find.py": "the checkpoint that a run goes on from, or is refused to",
    "training/test_compiled.py": "a compiled network under every stage of ZeRO, through inductor",
    "training/test_elastic.py": "resuming with another number of ranks",
    "training/test_fp16.py": "training in fp16, under every stage of ZeRO",
    "training/test_host_waits.py": "where the host waits for a GPU, over the loop, the engine and the method",
    "training/test_masters.py": "bf16 under every stage of ZeRO: what is exported, and the step of stage 0",
    "training/test_refused.py": "steps whose loss or gradient is not finite",
    "training/test_run.py": "the training loop from the first step to the exported model",
    "training/test_teacher.py": "the average of the segmenter under every stage of ZeRO",
}
"""Tests, or folders of tests, that belong to no single module: path below tests/ → their subject."""


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def _nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(_tree(path)))


@pytest.mark.parametrize("path", [p for p in FILES if p.parent.name != "cli" and p.name != "__main__.py"], ids=_name)
def test_only_the_command_line_exits(path: Path) -> None:
    """Nor does other code print: ruff's T20."""
    ends = {name.rpartition(".")[2] for name in EXITS}
    for node in _nodes(path):
        if (
            isinstance(node, ast.Name | ast.Attribute)
            and (node.id if isinstance(node, ast.Name) else node.attr) in ends
        ):
            assert ast.unparse(node) not in EXITS, f"{_name(path)}:{node.lineno}: {ast.unparse(node)}"


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_docstrings_begin_with_a_description(path: Path) -> None:
    """A docstring begins with what the thing is or does, not with a question word. Files have one: ruff's D100."""
    assert path.stem not in {"utils", "util", "helpers", "misc"}, "name the file after its job"
    for node in _nodes(path):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = (ast.get_docstring(node) or "-").split()[0].strip(",:")
            assert first not in QUESTION_WORDS, f"{_name(path)}:{getattr(node, 'lineno', 1)}: begins with {first}"


def test_library_messages_name_no_option_of_the_command_line() -> None:
    """An option is the command's; the library names the value or the file."""
    options = {name for name in _options(get_command(app)) if name.startswith("--")}
    assert {"--override-config", "--maps", "--no-verify"} <= options
    pattern = re.compile(rf"(?<![\w-])({'|'.join(sorted(options, key=len, reverse=True))})(?![\w=-])")
    found = [
        f"{_name(path)}:{node.lineno}: {node.value}"
        for path in FILES
        if path.parent.name != "cli"
        for node in _strings(path)
        if pattern.search(str(node.value))
    ]
    assert not found, "\n".join(found)


def _options(command: Any) -> Iterator[str]:
    for parameter in command.params:
        yield from (*parameter.opts, *parameter.secondary_opts)
    for child in getattr(command, "commands", {}).values():
        yield from _options(child)


def _strings(path: Path) -> Iterator[ast.Constant]:
    """String constants, without docstrings and comments of attributes."""
    comments = {id(node.value) for node in _nodes(path) if isinstance(node, ast.Expr)}
    for node in _nodes(path):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in comments:
            yield node


@pytest.mark.parametrize("path", TESTS, ids=_name)
def test_tests_mirror_the_package(path: Path) -> None:
    """tests/ROOM/test_MODULE.py tests mgcda_dist/ROOM/MODULE.py, or the package of that name."""
    assert all((ROOT / "tests" / name).exists() for name in BESIDE_THE_MIRROR), "one that is listed is not there"
    below = path.relative_to(ROOT / "tests")
    if below.as_posix().startswith(tuple(BESIDE_THE_MIRROR)):
        return
    module = PACKAGE / below.parent / path.stem.removeprefix("test_")
    assert module.is_dir() or module.with_suffix(".py").is_file(), (
        f"{_name(path)}: there is no {_name(module)}.py; move the test, or list it above with its subject"
    )


@pytest.mark.parametrize("path", TESTS, ids=_name)
def test_tests_are_functions(path: Path) -> None:
    """A class is not collected (`python_classes` is empty), so that tests in it would be skipped without a word."""
    held = [node for node in _tree(path).body if isinstance(node, ast.ClassDef)]
    found = [node.name for node in held if node.name.startswith("Test") or any(map(_is_test, node.body))]
    assert not found, f"{_name(path)}: {', '.join(found)} would never run; make its tests functions"


def _is_test(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef) and node.name.startswith("test_")


def test_no_global_generator_is_used() -> None:
    """Law 2: the global generators of Python and torch are never drawn from; NumPy's: ruff's NPY002."""
    forbidden = re.compile(
        r"\brandom\.(seed|random|randint|choice|shuffle|uniform|sample)\(|\btorch\.cuda\.manual_seed"
    )
    for path in FILES:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            assert not forbidden.search(line), f"{_name(path)}:{number}: {line.strip()}"


def test_every_dependency_is_pinned() -> None:
    """Each dependency of pyproject.toml has an exact version in constraints.txt."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *(d for extra in project["optional-dependencies"].values() for d in extra)]
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {canonicalize_name(line.partition("==")[0]) for line in pins if "==" in line}
    assert not [d for d in wanted if canonicalize_name(Requirement(d).name) not in pinned]
