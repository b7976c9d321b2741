"""YAML text → plain values and the line of each, and back; every refusal is a `ConfigError` with its line.

Stricter than YAML where a configuration is a mistake or an attack: keys are words and given once, values do not hold
themselves, aliases do not unfold without bound.
"""

from __future__ import annotations

import codecs
import os
import re
from os.path import isfile
from pathlib import Path
from typing import Any

import yaml

from mgcda_dist.config.keys import KeyPath
from mgcda_dist.errors import ConfigError, MgcdaError
from mgcda_dist.trust import read_bytes

__all__ = ["dump_yaml", "parse_yaml", "read_yaml", "shipped", "shipped_files"]

_MAX_BYTES = 1 << 20
_MAX_DEPTH = 32
_MAX_VALUES = 100_000
_MARKS = (  # that of UTF-16 begins that of UTF-32
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_TOO_DEEP = (f"nested more than {_MAX_DEPTH} deep, or holds itself (`&name`, `*name`)", "write the values out")


class _Loader(yaml.SafeLoader):
    """Reads 1e-5 as a number, as YAML 1.2 does; in YAML 1.1, PyYAML's, it needs a point, and 1.0e5 a sign."""


class _Dumper(yaml.SafeDumper):
    """Writes text that `_Loader` would take for a number in quotes."""


for _each in (_Loader, _Dumper):
    _each.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+\Z"),
        list("-+.0123456789"),
    )


def read_yaml(path: Path, lines: dict[KeyPath, str] | None = None) -> Any:
    """The value of a YAML file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark.

    Args:
        lines: receives `file:line` of every value.

    Raises:
        ConfigError: as `parse_yaml`, or the file cannot be read.
    """
    try:
        data = read_bytes(path, _MAX_BYTES)
    except (OSError, MgcdaError) as error:
        reason = error.problem if isinstance(error, MgcdaError) else error.strerror or error
        raise ConfigError(str(path), f"cannot read the configuration: {reason}", "give a file of YAML") from None
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        where = f"{path}:{data.count(10, 0, error.start) + 1}"
        problem = f"the byte 0x{data[error.start]:02x} is not {encoding.upper()}"
        raise ConfigError(where, problem, "save the file in UTF-8; an older editor may have used Latin-1") from None
    return parse_yaml(text, str(path), lines)


def shipped(path: Path) -> Path:
    """`path`, or where there is no such `configs/…` in the current directory, the file that the package brings."""
    plain = Path(os.path.normpath(path))  # without the `..` of a `base`
    brought = _home() / plain
    return brought if plain.parts[:1] == ("configs",) and not os.path.exists(path) and isfile(brought) else path


def shipped_files() -> list[str]:
    """The configurations that the package brings, `configs/…`."""
    return sorted(path.relative_to(_home()).as_posix() for path in _home().glob("configs/**/*.yaml"))


def _home() -> Path:
    """The folder that holds `configs/`: the installed package, or the checkout that it lies in."""
    package = Path(__file__).parents[1]
    return package.parent if (package.parent / "pyproject.toml").is_file() else package


def parse_yaml(text: str, where: str, lines: dict[KeyPath, str] | None = None) -> Any:
    """The value of a YAML document; empty: None.

    Args:
        where: file or option the text is from.
        lines: receives `where:line` of every value.

    Raises:
        ConfigError: not one YAML document, a key given twice, a value that is not of its kind (the 32nd of a month), a
            structure that is too deep, too large, or holds itself.
    """
    try:
        node = yaml.compose(text, Loader=_Loader)
        return None if node is None else _Construction(where, {} if lines is None else lines).value(node, ())
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        remedy = "mind indentation, colons, and quotes around [ ] inside { }"
        raise ConfigError(f"{where}{line}", f"not valid YAML: {error.problem}", remedy) from None
    except yaml.YAMLError as error:  # characters that YAML does not have
        problem = f"not valid YAML: {str(error).splitlines()[0]}"
        raise ConfigError(where, problem, "remove the character; is the file text in UTF-8?") from None
    except RecursionError:
        raise ConfigError(where, *_TOO_DEEP) from None


def dump_yaml(content: Any) -> str:
    """Plain values as a YAML document that `parse_yaml` reads back, keys in their order."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, width=120)


class _Construction:
    """Values of the nodes of one document."""

    def __init__(self, where: str, lines: dict[KeyPath, str]) -> None:
        self._where, self._lines, self._num_values = where, lines, 0
        self._loader = yaml.SafeLoader("")

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        """The value of a node; notes its line."""
        at = f"{self._where}:{node.start_mark.line + 1}"
        self._num_values += 1
        if len(path) > _MAX_DEPTH:
            raise ConfigError(at, *_TOO_DEEP)
        if self._num_values > _MAX_VALUES:
            raise ConfigError(at, f"aliases unfold to more than {_MAX_VALUES} values", "write the values out")
        if path:
            self._lines.setdefault(path, at)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, i)) for i, item in enumerate(node.value)]
        if not node.tag.startswith("tag:yaml.org"):
            return str(node.value)
        try:
            return self._loader.construct_object(node)
        except (ValueError, LookupError, OverflowError):
            kind = node.tag.rpartition(":")[2]
            raise ConfigError(at, f"{str(node.value)[:80]!r} is no {kind}", "quote it, if it is text") from None

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            at = f"{self._where}:{key_node.start_mark.line + 1}"
            if not isinstance(key_node, yaml.ScalarNode):
                raise ConfigError(at, "a list or mapping stands where a key is expected", "quote [ ] and { } of text")
            key = str(key_node.value)
            if key in result:
                raise ConfigError(at, f"key {key!r} is given twice", "remove one")
            self._lines[(*path, key)] = at
            result[key] = self.value(value_node, (*path, key))
        return result
