"""Checks of the domains: those that lack what MDAT and CACL align."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from mgcda_dist.choices import ANOMALY, INLIER
from mgcda_dist.config.schema import Config

__all__ = ["unaligned"]

_SAME_RATE = 0.1  # shares of images with anomalies that differ by less count as one


def unaligned(config: Config, seen: Mapping[str, Counter[int] | None]) -> Iterator[str]:
    """Warnings about a domain that lacks what MDAT and CACL align.

    Args:
        seen: pixels per train id by stream; None: nothing counts those of its Dataset, and what is pasted and whether
            there are labels have to do.
    """
    rates, inliers = dict.fromkeys(config.data.domains, 0.0), set[str]()
    given = config.cacl.unlabelled_confidence is not None or (config.teacher.enabled and config.teacher.contrast)
    share = {name: sum(s.per_step for s in config.data.streams if s.domain_name == name) for name in rates}
    uncounted = list[str]()
    for stream in config.data.streams:
        pixels = seen.get(stream.name)
        rate = stream.paste.probability if stream.paste else 0.0
        rate = 1.0 if (pixels or {}).get(ANOMALY) else rate  # of labels the share of images is not known
        rates[stream.domain_name] += rate * stream.per_step / share[stream.domain_name]
        if given if not stream.labelled else pixels is None or any(x < INLIER for x in pixels):
            inliers.add(stream.domain_name)
        if stream.labelled and pixels is None and rate < 1:
            uncounted.append(stream.name)
    if not (config.mdat.enabled or config.cacl.enabled) or len(rates) < 2:
        return
    yield from _unequal(rates, f"; the labels of {', '.join(uncounted)} are not counted" if uncounted else "")
    if config.cacl.enabled:
        lacking = [name for name in rates if name not in inliers]
        told = "cacl.unlabelled_confidence, or teacher.enabled and teacher.contrast"
        if names := [name for name in lacking if rates[name]]:
            yield (
                f"{_give(names)} CACL anomalies and no inlier: nothing says which other pixels are normal there, so "
                f"these objects are contrasted with inliers of other domains alone; set {told}"
            )
        if names := [name for name in lacking if not rates[name]]:
            yield (
                f"{_give(names)} CACL no pixel: there are no labels and no objects; set paste on these streams, and "
                f"{told}"
            )


def _give(names: list[str]) -> str:
    return f"domain {names[0]} gives" if len(names) == 1 else f"domains {', '.join(names)} give"


def _unequal(rates: Mapping[str, float], unknown: str) -> Iterator[str]:
    """Warnings about shares of images with anomalies, by domain.

    Args:
        unknown: what those shares do not contain, in words.
    """
    with_anomalies = [name for name, rate in rates.items() if rate]
    if len(with_anomalies) == 1:
        (only,), others = with_anomalies, ", ".join(name for name in rates if name not in with_anomalies)
        yield (
            f"anomalies are in domain {only} alone: no anomaly of CACL meets one of another domain, and the "
            f"discriminators can tell {only} by its objects; paste at the same rate on the streams of {others}{unknown}"
        )
    elif with_anomalies and max(rates.values()) - min(rates.values()) > _SAME_RATE:
        listed = ", ".join(f"{name} {rate:.0%}" for name, rate in rates.items())
        yield (
            f"domains differ in how many of their images have anomalies ({listed}): the discriminators can tell "
            f"them by that; bring the streams' paste.probability to one value{unknown}"
        )
