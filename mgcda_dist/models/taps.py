"""Outputs of named layers of a network nobody changes: which layer, which entry of its output, in which layout."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

from mgcda_dist.errors import ConfigError

__all__ = ["Layout", "Place", "Taps", "find_places", "layout_of", "run_tapped", "shown"]

_PATH = re.compile(r"(?P<module>[^\[\]]*)(?P<keys>(\[[^\[\]]+\])*)")


@dataclass(frozen=True)
class Taps:
    """Where a network's stages, logits and embedding are: see `wrap`.

    Attributes:
        stages: stage name → path.
        logits: path, or a function of the network's own output.
        embedding: path; None: what the logits' layer is given.
        backbone: path of the part that starts from pretrained weights; empty: none.
    """

    stages: Mapping[str, str]
    logits: str | Callable[[Any], Tensor]
    embedding: str | None = None
    backbone: str = ""


class Place(NamedTuple):
    """One tapped value.

    Attributes:
        module: path as in `named_modules`; empty: the network itself.
        keys: entries to follow into the module's output.
        given: the module's first input is meant and not its output.
        read: applied to the module's output instead of `keys`.
    """

    module: str
    keys: tuple[str | int, ...] = ()
    given: bool = False
    read: Callable[[Any], Tensor] | None = None


@dataclass(frozen=True)
class Layout:
    """How a tapped tensor is a map.

    Attributes:
        kind: `map` N×c×h×w, `last` N×h×w×c, or `tokens` N×(extra + h·w)×c.
        stride: pixels of the padded image per cell; 0: no whole number.
        extra: class and register tokens in front of the others.
    """

    kind: Literal["map", "last", "tokens"]
    stride: int
    extra: int = field(default=0)

    def as_map(self, x: Tensor, height: int) -> Tensor:
        """N×c×h×w of a padded image of that height."""
        match self.kind:
            case "map":
                return x
            case "last":
                return x.permute(0, 3, 1, 2)
            case "tokens":
                return x[:, self.extra :].transpose(1, 2).unflatten(2, (height // self.stride, -1))


def find_places(network: nn.Module, taps: Taps, where: str) -> dict[str, Place]:
    """`stage:NAME`, `logits` and `embedding` → place.

    Raises:
        ConfigError: a path that the network does not have; `where` names the field.
    """
    known = dict(network.named_modules())
    if taken := {"logits", "embedding"} & set(taps.stages):
        raise ConfigError(f"{where}.stages", f"a stage cannot be called {taken.pop()!r}", "choose another name")

    def place(path: str, name: str) -> Place:
        found = _PATH.fullmatch(path)
        module = found["module"] if found else path
        if found is None or module not in known:
            last = module.rpartition(".")[2]
            near = [p for p in known if last and p.rpartition(".")[2] == last]
            near = near[:6] or difflib.get_close_matches(module, known, n=4, cutoff=0.5)
            near = near or [p for p, m in known.items() if p and not any(True for _ in m.children())][-4:]
            raise ConfigError(
                f"{where}.{name}",
                f"{type(network).__name__} has no module {module!r}",
                f"candidates: {', '.join(near)}; `named_modules()` lists all",
            )
        keys = re.findall(r"\[([^\[\]]+)\]", found["keys"])
        if type(known[module]) in (nn.ModuleList, nn.ModuleDict):  # timm's feature extractors are subclasses that run
            entry = keys[0] if keys else next(iter(dict(known[module].named_children())), "0")
            raise ConfigError(
                f"{where}.{name}", f"{module!r} only holds layers, and outputs nothing", f"name one: {module}.{entry}"
            )
        return Place(module, tuple(int(key) if key.isdigit() else key for key in keys))

    places = {f"stage:{name}": place(path, f"stages.{name}") for name, path in taps.stages.items()}
    if isinstance(taps.logits, str):
        places["logits"] = place(taps.logits, "logits")
    else:
        places["logits"] = Place("", read=taps.logits)
    if taps.embedding is not None:
        places["embedding"] = place(taps.embedding, "embedding")
    elif places["logits"].module:
        classifier = places["logits"].module
        if not any(True for _ in known[classifier].parameters()):
            raise ConfigError(
                f"{where}.logits",
                f"{classifier!r} has no weights, so what it is given are logits already, and no features to contrast",
                "name the classifier in front of it; or name the features, as `embedding`",
            )
        places["embedding"] = Place(places["logits"].module, given=True)
    else:
        raise ConfigError(
            f"{where}.embedding", "the logits are the network's own output", "name the layer in front of the classifier"
        )
    return places


def run_tapped(network: nn.Module, places: Mapping[str, Place], image: Tensor) -> dict[str, Tensor]:
    """What the places hold when the network sees `image`. Hooks live for one call: nothing stays to copy or export.

    Raises:
        ConfigError: a tapped layer that runs twice, or has no such output.
    """
    tapped: dict[str, Tensor] = {}

    def tap(name: str, place: Place) -> Any:
        def store(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
            if name in tapped:
                raise ConfigError(
                    f"tap {name}",
                    f"{place.module} runs more than once in a forward pass, and only one of its outputs can be meant",
                    "tap a layer that runs once, or give each use a layer",
                )
            value = next(iter((*inputs, *named.values()))) if place.given else output
            tapped[name] = place.read(value) if place.read else _entry(value, place, name)

        return store

    handles = [
        network.get_submodule(place.module).register_forward_hook(tap(name, place), with_kwargs=True)
        for name, place in places.items()
    ]
    try:
        network(image)
    finally:
        for handle in handles:
            handle.remove()
    return tapped


def check_still(network: nn.Module, places: Mapping[str, Place], image: Tensor) -> None:
    """Raise `ConfigError` for a tapped output that a later layer overwrites: the tap would hold what that one makes."""
    written: dict[str, int] = {}

    def watch(name: str, place: Place) -> Any:
        def store(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if not place.given and not place.read:
                written[name] = _entry(output, place, name)._version

        return store

    handles = [network.get_submodule(p.module).register_forward_hook(watch(n, p)) for n, p in places.items()]
    try:
        tapped = run_tapped(network, places, image)
    finally:
        for handle in handles:
            handle.remove()
    for name, version in written.items():
        if tapped[name]._version != version:
            raise ConfigError(
                f"tap {name}",
                f"a later layer overwrites the output of {places[name].module} in place",
                "tap that layer, such as an activation with inplace=True; or set its inplace=False",
            )


def _entry(value: Any, place: Place, name: str) -> Tensor:
    path = place.module
    for key in place.keys:
        try:
            if isinstance(value, Tensor):  # whose entries are the images of the batch
                raise TypeError
            value = value[key]
        except (KeyError, IndexError, TypeError):
            raise ConfigError(
                f"tap {name}",
                f"{path or 'the network'} has no output [{key}], but {shown(value)}",
                f"without [{key}]" if isinstance(value, Tensor) else _choose(path, value),
            ) from None
        path += f"[{key}]"
    if isinstance(value, Tensor):
        return value
    raise ConfigError(f"tap {name}", f"{path or 'the network'} outputs {shown(value)}", _choose(path, value))


def _choose(path: str, value: Any) -> str:
    """How to name an entry of a tapped output; keys can be nested."""
    if isinstance(value, Mapping) and value:
        return f'say which one, for example "{path}[{next(iter(value))}]"'
    if isinstance(value, list | tuple) and value:
        return f'say which one, for example "{path}[0]"'
    return "tap another layer"


def layout_of(x: Tensor, size: tuple[int, int], name: str, *, whole: bool) -> Layout:
    """How `x` lies over a padded image of `size`, whose height is two thirds of its width.

    Args:
        x: what was tapped.
        size: height and width, pixels.
        name: of the tap, for messages.
        whole: a stride that is a whole number is needed, so that cells can be compared with labels.

    Raises:
        ConfigError: no map of the image.
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
        f"is {shown(x)} for an image of {height}×{width}: neither N×c×h×w nor N×h×w×c nor tokens with a whole stride",
        "tap a layer whose output covers the image in even cells",
    )


def shown(value: Any) -> str:
    """An output in words, for messages."""
    if isinstance(value, Tensor):
        return "×".join(map(str, value.shape))
    if isinstance(value, Mapping):
        return ", ".join(f"[{key}] {shown(x)}" for key, x in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(f"[{index}] {shown(x)}" for index, x in enumerate(value))
    return f"a {type(value).__name__}"
