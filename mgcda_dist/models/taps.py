"""Taps: outputs of named layers of an unmodified network, by forward hooks, and their layout as maps of the image."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

from mgcda_dist.errors import ConfigError

__all__ = [
    "WHERE",
    "KeptTaps",
    "Layout",
    "TapPoint",
    "Taps",
    "check_not_overwritten",
    "described",
    "layout_of",
    "resolve_taps",
    "run_with_taps",
]

WHERE = "model.taps"
"""The section that names them, for messages."""
_PATH = re.compile(r"(?P<module>[^\[\]]*)(?P<keys>(\[[^\[\]]+\])*)")


@dataclass(frozen=True)
class Taps:
    """Paths of a network's stages, logits, embedding, pretrained part and extras: the arguments of `wrap`.

    `backbone_parts`: all that learns with the backbone's rate, in the order of the image's way, where that is more than
    the backbone: the embeddings in front of a transformer's blocks, and the norm behind them.
    """

    stages: Mapping[str, str]
    logits: str | Callable[[Any], Tensor]
    embedding: str | None = None
    backbone: str = ""
    extra: Mapping[str, str] = field(default_factory=dict[str, str])
    backbone_parts: Sequence[str] = ()


class TapPoint(NamedTuple):
    """One tapped value.

    Attributes:
        module: path as in `named_modules`; empty: the network itself.
        keys: successive entries of the module's output.
        of_input: the module's first input is tapped instead of its output.
        read: applied to the module's output instead of `keys`.
    """

    module: str
    keys: tuple[str | int, ...] = ()
    of_input: bool = False
    read: Callable[[Any], Tensor] | None = None


@dataclass(frozen=True)
class Layout:
    """Layout of a tapped tensor.

    Attributes:
        kind: `map` N×c×h×w, `last` N×h×w×c, or `tokens` N×(extra + h·w)×c.
        stride: pixels of the padded image per cell; 0: not an integer.
        extra: number of class and register tokens in front of the others.
    """

    kind: Literal["map", "last", "tokens"]
    stride: int
    extra: int = field(default=0)

    def as_map(self, x: Tensor, height: int) -> Tensor:
        """N×c×h×w, for a padded image of `height` pixels."""
        match self.kind:
            case "map":
                return x
            case "last":
                return x.permute(0, 3, 1, 2)
            case "tokens":
                return x[:, self.extra :].transpose(1, 2).unflatten(2, (height // self.stride, -1))


def resolve_taps(network: nn.Module, taps: Taps) -> dict[str, TapPoint]:
    """`stage:NAME`, `extra:NAME`, `logits` and `embedding` → tap point.

    Raises:
        ConfigError: a path that does not exist.
    """
    known = dict(network.named_modules())
    if taken := {"logits", "embedding"} & set(taps.stages):
        raise ConfigError(f"{WHERE}.stages", f"a stage cannot be called {taken.pop()!r}", "choose another name")

    def point(path: str, name: str) -> TapPoint:
        found = _PATH.fullmatch(path)
        module = found["module"] if found else path
        if found is None or module not in known:
            last = module.rpartition(".")[2]
            near = [p for p in known if last and p.rpartition(".")[2] == last]
            near = near[:6] or difflib.get_close_matches(module, known, n=4, cutoff=0.5)
            near = near or [p for p, m in known.items() if p and not any(True for _ in m.children())][-4:]
            raise ConfigError(
                f"{WHERE}.{name}",
                f"{type(network).__name__} has no module {module!r}",
                f"candidates: {', '.join(near)}; `named_modules()` lists all",
            )
        keys = re.findall(r"\[([^\[\]]+)\]", found["keys"])
        if type(known[module]) in (nn.ModuleList, nn.ModuleDict):  # timm's feature extractors are subclasses that run
            entry = keys[0] if keys else next(iter(dict(known[module].named_children())), "0")
            raise ConfigError(
                f"{WHERE}.{name}", f"{module!r} is a container without an output", f"name a layer: {module}.{entry}"
            )
        return TapPoint(module, tuple(int(key) if key.isdecimal() else key for key in keys))

    points = {f"stage:{name}": point(path, f"stages.{name}") for name, path in taps.stages.items()}
    points |= {f"extra:{name}": point(path, f"extra.{name}") for name, path in taps.extra.items()}
    if isinstance(taps.logits, str):
        points["logits"] = point(taps.logits, "logits")
    else:
        points["logits"] = TapPoint("", read=taps.logits)
    if taps.embedding is not None:
        points["embedding"] = point(taps.embedding, "embedding")
    elif points["logits"].module:
        classifier = points["logits"].module
        if not any(True for _ in known[classifier].parameters()):
            raise ConfigError(
                f"{WHERE}.logits",
                f"{classifier!r} has no weights, so its input are logits already, and not features for the embedding",
                "name the classifier in front of it; or name the features, as `embedding`",
            )
        points["embedding"] = TapPoint(points["logits"].module, of_input=True)
    else:
        raise ConfigError(
            f"{WHERE}.embedding", "the logits are the network's own output", "name the layer in front of the classifier"
        )
    return points


def run_with_taps(network: nn.Module, points: Mapping[str, TapPoint], image: Tensor) -> dict[str, Tensor]:
    """The tapped values of one forward pass of `image`. The hooks are removed afterwards, so copies and exports work.

    Raises:
        ConfigError: a tapped layer that runs twice, or has no such output.
    """
    tapped: dict[str, Tensor] = {}

    def tap(name: str, point: TapPoint) -> Any:
        def store(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
            if name in tapped:
                raise ConfigError(
                    f"tap {name}",
                    f"{point.module} runs more than once in a forward pass, so its output is ambiguous",
                    "tap a layer that runs once, or use a separate layer for each call",
                )
            value = next(iter((*inputs, *named.values()))) if point.of_input else output
            tapped[name] = point.read(value) if point.read else _entry(value, point, name)

        return store

    with ExitStack() as hooks:
        for name, point in points.items():
            layer = network.get_submodule(point.module)
            hooks.enter_context(layer.register_forward_hook(tap(name, point), with_kwargs=True))
        network(image)
    return tapped


class KeptTaps:
    """`run_with_taps` by hooks that stay, so that a compiler can trace the pass; for a network that is not copied.

    Args:
        network: that `run_with_taps` has run with these points before, which finds out what is wrong with them.
    """

    def __init__(self, network: nn.Module, points: Mapping[str, TapPoint]) -> None:
        self._network, self._tapped = network, dict[str, Tensor]()
        for name, point in points.items():
            network.get_submodule(point.module).register_forward_hook(self._tap(name, point), with_kwargs=True)

    def _tap(self, name: str, point: TapPoint) -> Any:
        def store(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
            value = next(iter((*inputs, *named.values()))) if point.of_input else output
            self._tapped[name] = point.read(value) if point.read else _entry(value, point, name)

        return store

    def __call__(self, image: Tensor) -> dict[str, Tensor]:
        """The tapped values of one forward pass."""
        self._tapped.clear()
        self._network(image)
        found = dict(self._tapped)
        self._tapped.clear()
        return found


def check_not_overwritten(network: nn.Module, points: Mapping[str, TapPoint], image: Tensor) -> None:
    """Raise `ConfigError` for a tapped output that a later layer overwrites in place."""
    versions: dict[str, int] = {}

    def watch(name: str, point: TapPoint) -> Any:
        def store(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if not point.of_input and not point.read:
                versions[name] = _entry(output, point, name)._version

        return store

    with ExitStack() as hooks:
        for name, point in points.items():
            hooks.enter_context(network.get_submodule(point.module).register_forward_hook(watch(name, point)))
        tapped = run_with_taps(network, points, image)
    for name, version in versions.items():
        if tapped[name]._version != version:
            raise ConfigError(
                f"tap {name}",
                f"a later layer overwrites the output of {points[name].module} in place",
                "tap that layer, such as an activation with inplace=True; or set its inplace=False",
            )


def _entry(value: Any, point: TapPoint, name: str) -> Tensor:
    path = point.module
    for key in point.keys:
        try:
            if isinstance(value, Tensor):  # its entries would be images of the batch
                raise TypeError
            value = value[key]
        except (KeyError, IndexError, TypeError):
            raise ConfigError(
                f"tap {name}",
                f"{path or 'the network'} has no output [{key}], but {described(value)}",
                f"without [{key}]" if isinstance(value, Tensor) else _entry_example(path, value),
            ) from None
        path += f"[{key}]"
    if isinstance(value, Tensor):
        return value
    raise ConfigError(f"tap {name}", f"{path or 'the network'} outputs {described(value)}", _entry_example(path, value))


def _entry_example(path: str, value: Any) -> str:
    """A remedy that names an entry of a tapped output."""
    if isinstance(value, Mapping) and value:
        return f'name an entry, for example "{path}[{next(iter(value))}]"'
    if isinstance(value, list | tuple) and value:
        return f'name an entry, for example "{path}[0]"'
    return "tap another layer"


def layout_of(x: Tensor, size: tuple[int, int], name: str, *, whole: bool) -> Layout:
    """Layout of `x` over a padded image of `size`, whose height is two thirds of its width.

    Args:
        size: height and width, pixels.
        name: of the tap, for messages.
        whole: the stride must be an integer, so that cells can be compared with labels.

    Raises:
        ConfigError: not a map of the image.
    """
    height, width = size
    if x.ndim == 4:
        for kind, (h, w) in (("map", x.shape[2:4]), ("last", x.shape[1:3])):
            if height == h * (height // h) and width == w * (height // h):
                return Layout(kind, height // h)  # pyright: ignore[reportArgumentType]
        h, w = x.shape[2:4]
        if not whole and min(h, w) > 1 and abs(h / w - height / width) < 1 / w:
            return Layout("map", 0)
    if x.ndim == 3:
        for stride in (s for s in range(1, height + 1) if height % s == 0 and width % s == 0):
            extra = x.shape[1] - height * width // stride**2
            if 0 <= extra <= 8:
                return Layout("tokens", stride, extra)
    raise ConfigError(
        f"tap {name}",
        f"is {described(x)} for an image of {height}×{width}: neither N×c×h×w nor N×h×w×c nor tokens, with an integer "
        "stride",
        "tap a layer whose output is a regular grid over the image",
    )


def described(value: Any) -> str:
    """Shape or structure of an output, for messages."""
    if isinstance(value, Tensor):
        return "×".join(map(str, value.shape))
    if isinstance(value, Mapping):
        return ", ".join(f"[{key}] {described(x)}" for key, x in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(f"[{index}] {described(x)}" for index, x in enumerate(value))
    return f"a {type(value).__name__}"
