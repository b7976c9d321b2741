"""Tables of results: what papers expect, and nothing that would not compile or render."""

from __future__ import annotations

import re
from typing import Any

from mgcda_dist.evaluation.results import EvaluationResults
from mgcda_dist.evaluation.tables import latex_table, markdown_table


def _results(name: str, ap: float, **subject: Any) -> EvaluationResults:
    numbers = {"ap": ap, "fpr95": 0.0989, "auroc": 0.97, "best_f1": 0.7}
    row = {
        **numbers,
        "frames": 60,
        "intervals": {"ap": [ap - 0.1, ap + 0.05]},
        "conventions": {"pooled": numbers, "smiyc": numbers | {"ap": ap + 0.01}},
        "dataset": "road_anomaly",
        "split": "test",
        "manifest_digest": "35eef4840073d6cd",
        "groups": {"night": {"ap": 0.5, "frames": 12, "anomaly_pixels": 123456, "inlier_pixels": 1}},
    }
    city = {"miou": 0.5, "frames": 10, "intervals": {}, "conventions": {"pooled": {}, "smiyc": {}}}
    city["iou"] = {"road": 0.9, "person": 0.1}
    city |= {"dataset": "cityscapes", "split": "val", "manifest_digest": "1" * 64}
    content = {
        "convention": "pooled",
        "score": "energy",
        "scales": [0.5, 1.0],
        "flip": True,
        "window_px": [512, 1024],
        "window_overlap": 0.25,
        "interval_level": 0.95,
        "tool_version": "0.1.0",
        "subject": {"name": name, "kind": "model", "digest": "ab" * 32, "class_space": "idd7"} | subject,
        "sets": {"road_anomaly": row, "city_val": city},
    }
    return EvaluationResults.of_json(content)


def test_markdown_has_a_row_per_set_and_names_everything() -> None:
    text = markdown_table([_results("ours", 0.7483)])
    lines = text.splitlines()
    assert lines[0].startswith("Per cent. Convention pooled: all valid pixels of all frames pooled")
    assert lines[2] == "| set | frames | AP ↑ | FPR95 ↓ | AUROC ↑ | mIoU ↑ |"
    assert lines[4] == "| road_anomaly | 60 | 74.83 <sub>[64.83, 79.83]</sub> | 9.89 | 97.00 | – |"
    assert lines[5] == "| city_val | 10 | – | – | – | 50.00 |"
    assert "| set | method | road | person |" in lines and "| city_val | ours | 90.00 | 10.00 |" in lines
    assert "| road_anomaly | ours | smiyc | 75.83 | 9.89 | 97.00 | 70.00 |" in lines
    assert "| road_anomaly | ours | night | 12 | 123 456 | 50.00 | – | – |" in lines
    for fact in ("abababababab", "scales 0.5, 1", "flip", "sliding window 1024×512, overlap 25%", "35eef4840073"):
        assert fact in text
    # Every table has as many cells in each row as in its head.
    for block in text.split("\n\n"):
        widths = {line.count("|") for line in block.splitlines() if line.startswith("|")}
        assert len(widths) <= 1


def test_of_two_methods_the_better_is_bold() -> None:
    text = markdown_table([_results("a", 0.7), _results("b", 0.8)])
    assert "| road_anomaly | b | 60 | **80.00** <sub>[70.00, 85.00]</sub> | 9.89 |" in text
    assert "| road_anomaly | a | 60 | 70.00 <sub>[60.00, 75.00]</sub> | 9.89 |" in text


def test_latex_is_a_booktabs_table_with_its_convention_in_the_caption() -> None:
    text = latex_table([_results("small_real & 50 %", 0.7483), _results("b", 0.6)])
    assert r"\caption{Per cent. Convention pooled: all valid pixels" in text
    assert r"\multicolumn{2}{c}{road\_anomaly} & \multicolumn{1}{c}{city\_val} \\" in text
    assert r"\cmidrule(lr){2-3} \cmidrule(lr){4-4}" in text
    assert r"Method & AP $\uparrow$ & FPR95 $\downarrow$ & mIoU $\uparrow$ \\" in text
    assert r"small\_real \& 50 \% & \textbf{74.83}{\scriptsize\,[64.83, 79.83]} & 9.89 & 50.00 \\" in text
    assert text.count("{") == text.count("}")
    body = text[text.index(r"\midrule") : text.index(r"\bottomrule")]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in body.splitlines() if line.endswith(r"\\")} == {3}


def test_miou_over_different_classes_is_said_to_be_so() -> None:
    text = markdown_table([_results("a", 0.7), _results("b", 0.7, class_space="cityscapes19")])
    assert "mIoU is over different classes (cityscapes19, idd7)." in text
    assert "different classes" not in markdown_table([_results("a", 0.7), _results("b", 0.7, class_space="")])
