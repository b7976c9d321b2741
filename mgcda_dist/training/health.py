"""Health alarms: signals of a run in words, with the configuration keys to look at; each is raised once in a run.

No alarm is raised for a single step: windows are counted in steps (loss and gradient norm, read at every step) or in
readings (logged steps). The thresholds are ours; they are tested on made-up series only.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Sequence

from mgcda_dist.config.schema import Config

__all__ = ["HealthWatch"]

_WINDOW = 50
"""Steps whose median is the present normal value."""
_STEEP = 10.0
"""The gradient norm explodes when several steps in a row are this many times its median …"""
_STEEP_STEPS = 3
_SPIKE = 3.0
"""The loss spikes when several steps in a row are this many times its median, and out of its usual range …"""
_SPIKE_STEPS = 3
_SPIKE_SPREADS = 10.0
"""… by this many times the median distance from the median."""
_LEAK = 0.25
"""Accuracy near to objects above that far from them, mean of `_MEAN_READINGS` readings: a leak."""
_MEAN_READINGS = 10
_THIN = 0.1
"""Share of cells that MDAT aligns, mean of `_MEAN_READINGS` readings: less is hardly the scene. At 0.15 to 0.2
it still gives most of what it gave at 0.85 (benchmarks/results/synthetic_to_real.md)."""
_APART = 0.01
"""Share of the positives of anomalies that cross domains."""
_READINGS = 5
"""Logged steps in a row after which a standing state is a fault: no anchors, a still queue, waiting for data."""
_SHORT = 10.0
"""Mean age of the rows of a memory, in steps: below, it holds little that the batch does not."""
_FILLING = 50
"""Steps after which a memory that keeps its rows is older than that, full or not."""
_DATA_WAIT = 0.2
"""Share of the time."""


class HealthWatch:
    """Alarms from the metrics of a run.

    Args:
        raised: names of alarms that were raised before; they are not raised again.
        first_step: of the phase that the configuration is of.
        peak_accuracy: the highest accuracy in the phase of the discriminator of each stage, kept here; a restart goes
            on with it.
    """

    def __init__(
        self,
        config: Config,
        raised: Sequence[str] = (),
        *,
        first_step: int = 0,
        peak_accuracy: dict[str, float] | None = None,
    ) -> None:
        self._config, self._first_step = config, first_step
        self._raised = set(raised)
        self._peak_accuracy = {} if peak_accuracy is None else peak_accuracy
        self._leaks: dict[str, deque[float]] = {}
        self._aligned: dict[str, deque[float]] = {}
        self._losses, self._norms = _Series(_SPIKE_STEPS), _Series(_STEEP_STEPS)
        self._without_anchors = self._waiting = self._still = self._apart = self._short = 0
        self._last_reading: tuple[int, float] | None = None
        self._seen: dict[str, str] = {}

    def see(self, step: int, loss: float, gradient_norm: float) -> None:
        """Read the loss and gradient norm of a step.

        Args:
            loss: total, over all ranks; not finite in a step that was refused.
            gradient_norm: global, before clipping; not finite in a step that was refused.
        """
        if not (math.isfinite(loss) and math.isfinite(gradient_norm)):
            return  # such steps are refused and counted by the loop
        norm, usual_norm = self._norms.add(gradient_norm)
        if usual_norm is not None and norm > _STEEP * usual_norm.median:
            self._seen["gradient_norm"] = (
                f"the gradient norm has exploded: {norm:.3g}, against {usual_norm.median:.3g} over the {_WINDOW} steps "
                f"before; look at optim.lr_heads, optim.lr_backbone, optim.warmup, and optim.clip_norm"
            )
        lowest, usual = self._losses.add(loss)
        if usual is not None and lowest > max(_SPIKE * usual.median, usual.median + _SPIKE_SPREADS * usual.spread):
            self._seen["loss_spike"] = (
                f"the loss has spiked to {lowest:.3g}, from {usual.median:.3g} over the {_WINDOW} steps before; look "
                "at optim.lr_heads, optim.lr_backbone and optim.clip_norm; the checkpoint before it is in checkpoints/"
            )

    def read(self, step: int, metrics: dict[str, float]) -> dict[str, str]:
        """Alarms that have become true and were not raised before, from what is logged: name → sentence."""
        found = (
            self._seen | self._discriminators(step, metrics) | self._memory(step, metrics) | self._data(step, metrics)
        )
        self._seen = {}
        new = {name: text for name, text in found.items() if name not in self._raised}
        self._raised.update(new)
        return {name: f"step {step}: {text}" for name, text in new.items()}

    def _discriminators(self, step: int, metrics: dict[str, float]) -> dict[str, str]:
        first, found = self._first_step, dict[str, str]()
        progress = (step - first) / (self._config.optim.steps - first)
        chance = 1.0 / len(self._config.data.domains)
        for stage in self._config.mdat.stages if self._config.mdat.enabled else []:
            accuracy = metrics.get(f"mdat/{stage.name}/accuracy")
            if accuracy is None:
                continue
            peak = self._peak_accuracy[stage.name] = max(accuracy, self._peak_accuracy.get(stage.name, 0.0))
            # A running mean with momentum 0.95 says little before a hundred steps.
            if step - first >= 100 and progress > 0.3 and peak < chance + 0.1 * (1 - chance):
                found[f"dead_discriminator.{stage.name}"] = (
                    f"the discriminator of {stage.name} has never left chance ({accuracy:.2f} against {chance:.2f}): "
                    "it teaches nothing; look at optim.lr_discriminators, mdat.channels, mdat.smoothing.epsilon"
                )
            if progress > 0.9 and accuracy > 1 - 0.1 * (1 - chance):
                found[f"strong_discriminator.{stage.name}"] = (
                    f"the discriminator of {stage.name} still tells all domains apart at the end ({accuracy:.2f}): the "
                    "features were not aligned; raise mdat.lambda_max or mdat.weight"
                )
            near, far = (metrics.get(f"mdat/{stage.name}/{where}") for where in ("near_objects", "far_from_objects"))
            leaks = self._leaks.setdefault(stage.name, deque(maxlen=_MEAN_READINGS))
            if near is not None and far is not None:
                leaks.append(near - far)
            if len(leaks) == leaks.maxlen and statistics.mean(leaks) > _LEAK:
                found[f"leak.{stage.name}"] = (
                    f"the discriminator of {stage.name} knows the domain better near to objects than far from them (by "
                    f"{statistics.mean(leaks):.2f}): it aligns away what is to be detected; paste at one rate in all "
                    "domains (data.streams.*.paste.probability), or mdat.mask_width=receptive_field"
                )
            if (share := metrics.get(f"mdat/{stage.name}/aligned_share")) is not None:
                found |= self._thin(stage.name, share)
        return found

    def _thin(self, stage: str, share: float) -> dict[str, str]:
        """The alarm about a stage of which hardly a cell is aligned, given the share of a reading."""
        shares = self._aligned.setdefault(stage, deque(maxlen=_MEAN_READINGS))
        shares.append(share)
        if len(shares) < _MEAN_READINGS or statistics.mean(shares) >= _THIN:
            return {}
        because = (
            "objects are in many crops, and masks are as wide as what a location sees; lower "
            "data.streams.*.paste.probability, use larger crops (data.crop_px), or mdat.mask_width=cell"
            if self._config.mdat.mask_width == "receptive_field"
            else "the others show objects, void, or what class mix has laid over them; lower "
            "data.streams.*.paste.probability or data.augment.class_mix"
        )
        text = f"MDAT aligns only {statistics.mean(shares):.0%} of the cells of {stage}: {because}"
        return {f"thin_alignment.{stage}": text}

    def _memory(self, step: int, metrics: dict[str, float]) -> dict[str, str]:
        cacl, found = self._config.cacl, dict[str, str]()
        if not cacl.enabled:
            return found
        anchors, age = metrics.get("cacl/anchors"), metrics.get("cacl/queue_age_steps")
        if anchors is not None:
            self._without_anchors = self._without_anchors + 1 if anchors == 0 else 0
        if self._without_anchors >= _READINGS:
            found["no_anchors"] = (
                f"CACL has found no anchor in the last {_READINGS} logged steps: are there anomalies, in more than one "
                "image, in the stream? look at data.streams.*.paste and cacl.anomaly_pixels"
            )
        crossing = metrics.get("cacl/crossing_anomaly")
        if crossing is not None:
            self._apart = self._apart + 1 if crossing < _APART else 0
            if self._apart >= _READINGS and len(self._config.data.domains) > 1 and cacl.cross_domain:
                found["anomalies_apart"] = (
                    f"hardly an anomaly of CACL has met one of another domain in the last {_READINGS} logged steps "
                    f"({crossing:.1%} of their positives): paste objects in every domain (data.streams.*.paste)"
                )
        # Who lets few rows of an image enter asks for a memory of many images; the default keeps the last ones.
        asked = cacl.queue_rows_per_image is not None and cacl.queue_rows > 0
        if age is not None and asked and step - self._first_step >= _FILLING:
            self._short = self._short + 1 if age < _SHORT else 0
            if self._short >= _READINGS:
                found["short_memory"] = (
                    f"the rows in the memory of CACL are {age:.1f} steps old in the mean, hardly others than those of "
                    f"the batch: all {cacl.queue_rows} of a ring are replaced within a few steps; raise "
                    "cacl.queue_rows, or lower cacl.queue_rows_per_image"
                )
        if age is not None:
            if self._last_reading is not None and age > 0:
                steps, aged = step - self._last_reading[0], age - self._last_reading[1]
                # Rows that nobody replaces grow older by one step in each step.
                self._still = self._still + 1 if steps > 0 and aged >= steps - 1e-3 * max(age, 1.0) else 0
            self._last_reading = step, age
            if self._still >= _READINGS:
                found["still_queue"] = (
                    f"the memory of CACL has not moved in the last {_READINGS} logged steps (mean age {age:.0f} "
                    "steps): no pixel is sampled; look at cacl.anomaly_pixels, cacl.inlier_pixels and "
                    "data.streams.*.labelled"
                )
        return found

    def _data(self, step: int, metrics: dict[str, float]) -> dict[str, str]:
        share = metrics.get("time/data_wait_share")
        if share is None or step == 0:
            return {}
        self._waiting = self._waiting + 1 if share > _DATA_WAIT else 0
        if self._waiting < _READINGS:
            return {}
        return {"data_wait": f"{share:.0%} of the time is spent waiting for data: raise data.loader_workers"}


class _Usual:
    """Median of a window, and the median distance from it."""

    def __init__(self, values: Sequence[float]) -> None:
        self.median = statistics.median(values)
        self.spread = statistics.median(abs(value - self.median) for value in values)


class _Series:
    """A window of earlier values; the newest values are kept apart, so that they do not count as normal."""

    def __init__(self, num_newest: int) -> None:
        self._newest: deque[float] = deque(maxlen=num_newest)
        self._window: deque[float] = deque(maxlen=_WINDOW)

    def add(self, value: float) -> tuple[float, _Usual | None]:
        """The lowest of the newest values, and the normal value before them; None until the window is full."""
        if len(self._newest) == self._newest.maxlen:
            self._window.append(self._newest[0])
        self._newest.append(value)
        usual = _Usual(self._window) if len(self._window) == self._window.maxlen else None
        return min(self._newest), usual
