"""System metrics: GPUs are sampled where there are some, by the package that MLflow reads them with."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mgcda_dist.tracking.mlflow_client import quiet


def test_gpus_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a driver in the place of NVIDIA's: without nvidia-ml-py MLflow leaves GPUs out, and only its log says so."""
    import pynvml

    driver = {
        "nvmlInit": lambda: None,
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetMemoryInfo": lambda _: SimpleNamespace(used=20e9, total=80e9),
        "nvmlDeviceGetUtilizationRates": lambda index: SimpleNamespace(gpu=90 + index),
        "nvmlDeviceGetPowerUsage": lambda _: 350_000,
        "nvmlDeviceGetEnforcedPowerLimit": lambda _: 700_000,
    }
    for name, function in driver.items():
        monkeypatch.setattr(pynvml, name, function)
    with quiet():
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        metrics = SystemMetricsMonitor("run").collect_metrics()
    assert metrics["gpu_0_utilization_percentage"] == [90] and metrics["gpu_1_utilization_percentage"] == [91]
    assert metrics["gpu_1_memory_usage_percentage"] == [25.0] and metrics["gpu_1_power_usage_watts"] == [350.0]
