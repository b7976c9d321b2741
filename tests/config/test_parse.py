"""YAML that is a mistake or an attack: one `ConfigError` with its line, at once."""

from __future__ import annotations

import os
import shutil
import tomllib
from pathlib import Path

import pytest
import yaml

from mgcda_dist.config import parse
from mgcda_dist.config.load import dump_config, load_config, stored_config
from mgcda_dist.config.parse import parse_yaml, read_yaml, shipped_files
from mgcda_dist.config.sweep import is_sweep_file, load_sweep
from mgcda_dist.errors import ConfigError
from tests.support.commands import invoke
from tests.support.configs import plain_content, write_config

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
REFUSED = {
    "holds itself in a list": ("a: &a [1, *a]", r":1: .*holds itself"),
    "holds itself in a mapping": ("x: 1\na: &a\n  b: *a", r":2: .*holds itself"),
    "itself": ("&a [*a]", "holds itself"),
    "deep lists": ("a: " + "[" * 60 + "]" * 60, ":1: nested more than 32 deep"),
    "deep mappings": ("\n".join("  " * i + f"k{i}:" for i in range(60)), r":\d+: nested more than 32 deep"),
    "without end": ("[" * 600, "nested more than"),
    "billion laughs": (LAUGHS, r":\d+: aliases unfold to more than 100000 values"),
    "no such day": ("a: 2001-02-30", "1: '2001-02-30' is no timestamp\n  → quote it"),
    "no number": ("a: !!int x", "1: 'x' is no int"),
    "too many digits": ("a: " + "1" * 5000, "1: '1+' is no int"),
    "no truth": ("a: !!bool maybe", "1: 'maybe' is no bool"),
    "an empty binary number": ("a: 0b_", "1: '0b_' is no int"),
    "code": ("a: !!python/name:os.system ''", ":1: not valid YAML: could not determine a constructor"),
    "a list as key": ("? [a, b]\n: 1", ":1: a list or mapping stands where a key is expected"),
    "twice": ("a: 1\na: 2", ":2: key 'a' is given twice"),
    "a control character": ("a: \x07", "not valid YAML: .*#x0007"),
    "two documents": ("a: 1\n---\nb: 1", "not valid YAML"),
    "an alias to nothing": ("a: *b", ":1: not valid YAML"),
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", REFUSED)
def test_what_no_configuration_needs_is_refused(tmp_path: Path, name: str) -> None:
    text, message = REFUSED[name]
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        parse_yaml(text, "a.yaml")
    assert len(str(caught.value)) < 500
    for read in (load_config, load_sweep, stored_config):
        with pytest.raises(ConfigError):
            read(path)
    assert not is_sweep_file(path)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("value", ["&a [*a]", "[" * 600, "2001-02-30", "{", LAUGHS.partition("\n")[0] + "\x07"])
def test_so_is_the_value_of_an_option(tmp_path: Path, value: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("name: run")
    with pytest.raises(ConfigError, match=r"command line, 'name=.*\n  → quote it"):
        load_config(path, [f"name={value}"])


def test_values_are_those_of_yaml() -> None:
    text = "a: [1, 2.5, yes, ~, 'yes', 1.5e-3]\nb: {c: &x {d: 1}, e: *x}\nf: !mine word"
    lines: dict[tuple[str | int, ...], str] = {}
    assert parse_yaml(text, "a.yaml", lines) == {
        "a": [1, 2.5, True, None, "yes", 1.5e-3], "b": {"c": {"d": 1}, "e": {"d": 1}}, "f": "word"
    }  # fmt: skip
    assert lines["b", "c", "d"] == "a.yaml:2" and lines["a", 0] == "a.yaml:1"
    assert parse_yaml("", "a.yaml") is None


@pytest.mark.parametrize("text", ["1e5", "1e-5", "-2E+3", "+1e0", ".5e1", "5.e1", "0.5e1", "00e1"])
def test_numbers_with_an_exponent_are_numbers_as_in_yaml_1_2(tmp_path: Path, text: str) -> None:
    value = parse_yaml(text, "a.yaml")
    assert isinstance(value, float) and value == float(text)
    assert parse_yaml(f"a: [{text}, '{text}']", "a.yaml") == {"a": [value, text]}
    file = write_config(tmp_path / "a.yaml", plain_content(loss={"outlier": "python:x:Loss"}))
    config = load_config(file, [f"loss.arguments={{number: {text}, text: '{text}'}}"]).config
    assert config.loss.arguments == {"number": value, "text": text}
    (tmp_path / "b.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "b.yaml").config == config, "text that looks like a number is written in quotes"


@pytest.mark.parametrize("text", ["1e", "e5", "1e5x", "v1e5", "1e-", "0x1e", "1e5 a", "1_0e5", ".e5", "1e٥"])
def test_words_with_an_e_are_text_or_what_they_were(text: str) -> None:
    assert parse_yaml(text, "a.yaml") == yaml.safe_load(text)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_files_with_a_byte_order_mark_are_read(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes("# Straße\nrows: {道路: a}\n".encode(encoding))
    lines: dict[tuple[str | int, ...], str] = {}
    assert read_yaml(path, lines) == {"rows": {"道路": "a"}} and lines["rows",] == f"{path}:2"
    assert is_sweep_file(path)


def test_a_wheel_brings_the_configurations_that_messages_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = Path(__file__).parents[2]
    build = tomllib.loads((repository / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert build["force-include"]["configs"] == "mgcda_dist/configs"
    shutil.copytree(repository / "configs", tmp_path / "installed" / "mgcda_dist" / "configs")
    monkeypatch.setattr(parse, "__file__", str(tmp_path / "installed" / "mgcda_dist" / "config" / "parse.py"))
    monkeypatch.chdir(tmp_path)
    assert load_config("configs/demo.yaml").config.name == "demo"
    assert load_sweep(Path("configs/benchmark/multi_source/grid.yaml")).name == "multi_source"
    (tmp_path / "configs").mkdir()
    shutil.copy(repository / "configs" / "small_real.yaml", tmp_path / "configs" / "demo.yaml")
    assert load_config("configs/demo.yaml").config.name == "small_real", "what is here comes first"


def test_files_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes("name: a\nclass: straße".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"a\.yaml:2: the byte 0xdf is not UTF-8\n  → save the file in UTF-8"):
        load_config(path)
    path.write_bytes("name: a".encode("utf-16")[:-1])
    with pytest.raises(ConfigError, match=r"is not UTF-16\n  → save the file in UTF-8"):
        load_config(path)
    with pytest.raises(ConfigError, match="cannot read the configuration: is a folder, not a file"):
        read_yaml(tmp_path)
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(ConfigError, match="cannot read the configuration: is a pipe"):
        stored_config(tmp_path / "pipe.yaml")
    with pytest.raises(ConfigError, match=r"no such file\n  → did you mean .*a\.yaml"):
        load_config(tmp_path / "b.yaml")
    with pytest.raises(ConfigError, match="no such file"):
        load_config(tmp_path / ("b" * 300))


def test_shipped_configurations_are_listed_and_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = shipped_files()
    assert {"configs/demo.yaml", "configs/benchmark/multi_source/grid.yaml"} <= set(names)
    monkeypatch.chdir(tmp_path)
    listed = invoke("config", "list").stdout.splitlines()
    assert [line.split()[0] for line in listed] == names
    assert "  The demo: MGCDA end to end" in listed[names.index("configs/demo.yaml")]
