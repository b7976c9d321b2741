"""Health in words: what the signals mean and which key to look at; each sentence is said once."""

from __future__ import annotations

from mgcda_dist.config.schema import Config

__all__ = ["HealthWatch"]


class HealthWatch:
    """Reads the metrics of logged steps.

    Args:
        config: of the run.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._said: set[str] = set()
        self._peak_accuracy: dict[str, float] = {}

    def read(self, step: int, metrics: dict[str, float]) -> list[str]:
        """Sentences that have become true at this step and were not said before."""
        progress = step / self._config.optim.steps
        found: dict[str, str] = {}
        for stage in self._config.mdat.stages if self._config.mdat.enabled else []:
            accuracy = metrics.get(f"mdat/{stage.name}/accuracy")
            if accuracy is None:
                continue
            chance = 1.0 / len(self._config.data.domains)
            peak = self._peak_accuracy[stage.name] = max(accuracy, self._peak_accuracy.get(stage.name, 0.0))
            # A running mean with momentum 0.95 says little before a hundred steps.
            if step >= 100 and progress > 0.3 and peak < chance + 0.1 * (1 - chance):
                found[f"dead {stage.name}"] = (
                    f"the discriminator of {stage.name} has never left chance ({accuracy:.2f} against {chance:.2f}): "
                    "it teaches nothing; look at optim.lr_discriminators, mdat.channels, mdat.smoothing.epsilon"
                )
            if progress > 0.9 and accuracy > 1 - 0.1 * (1 - chance):
                found[f"strong {stage.name}"] = (
                    f"the discriminator of {stage.name} still tells all domains apart at the end ({accuracy:.2f}): the "
                    "features were not aligned; raise mdat.lambda_max or mdat.weight"
                )
        if self._config.cacl.enabled and progress > 0.1 and metrics.get("cacl/anchors", 1.0) == 0:
            found["anchors"] = (
                "CACL has found no anchor in this step: are there anomalies in the stream? look at "
                "data.domains.*.paste and cacl.anomaly_pixels"
            )
        if metrics.get("time/data_wait_share", 0.0) > 0.2 and step > 0:
            found["data"] = (
                f"{metrics['time/data_wait_share']:.0%} of the time is spent waiting for data: "
                "raise data.loader_workers"
            )
        new = {key: text for key, text in found.items() if key not in self._said}
        self._said.update(new)
        return [f"step {step}: {text}" for text in new.values()]
