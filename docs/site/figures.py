"""`python -m docs.site.figures`: the drawings in docs/pictures, narrow enough for a phone, in light and dark colours.

A drawing has its own background, since it follows the reader's system and not the switch of the page.
"""

from __future__ import annotations

import html
from pathlib import Path

__all__ = ["FIGURES", "FOLDER"]

FOLDER = Path(__file__).parents[1] / "pictures"
STYLE = """
svg { font: 15px system-ui, sans-serif; }
.back { fill: #ffffff; } .text { fill: #1c2730; } .small { font-size: 13px; fill: #46545f; }
.code { font-family: ui-monospace, monospace; font-size: 13px; fill: #46545f; }
.box { fill: #eef3f6; stroke: #8fa3b0;}
.net { fill: #dcefeb; stroke: #2a8c7c;}
.loss { fill: #f3e9f7; stroke: #8a5aa3;}
.sum { fill: #fdeedd; stroke: #c0711a;}
.line { stroke: #5b6b76; fill: none;}
.head { fill: #5b6b76;}
.wide { stroke: #c0711a; fill: none; stroke-dasharray: 5 4; }
@media (prefers-color-scheme: dark) {
  .back { fill: #171d22; } .text { fill: #e6edf2; } .small, .code { fill: #a9b8c2; }
  .box { fill: #242e36; stroke: #5f7583;}
  .net { fill: #17403a; stroke: #46b3a1;}
  .loss { fill: #38284a; stroke: #b58bd0;}
  .sum { fill: #47301a; stroke: #e39a4a;}
  .line { stroke: #90a3b0;}
  .head { fill: #90a3b0;}
  .wide { stroke: #e39a4a;}
}
"""


class Drawing:
    """An SVG of boxes and arrows, drawn from the top; numbers are pixels."""

    def __init__(self, title: str, described: str, width: int, height: int) -> None:
        """Begin a drawing with a title and a description for readers who do not see it."""
        self.size = width, height
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            f'role="img" aria-labelledby="t d"><title id="t">{html.escape(title)}</title>'
            f'<desc id="d">{html.escape(described)}</desc><style>{STYLE}</style>',
            '<defs><marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
            '<path class="head" d="M0 0L8 4L0 8z"/></marker></defs>',
            f'<rect class="back" width="{width}" height="{height}" rx="8"/>',
        ]

    def box(self, x: int, y: int, w: int, lines: str, kind: str = "box", h: int = 0) -> None:
        """A box with centred lines: the first in full size, the others small, with ` around a name of the code."""
        rows = lines.split("\n")
        h = h or 18 + 20 * len(rows)
        self.parts.append(f'<rect class="{kind}" x="{x}" y="{y}" width="{w}" height="{h}" rx="6"/>')
        top = y + (h - 20 * len(rows)) / 2
        for i, row in enumerate(rows):
            style = "code" if row.startswith("`") else "small" if i else "text"
            self.text(x + w // 2, top + 20 * i + 15, row.strip("`"), style)

    def text(self, x: float, y: float, words: str, style: str = "small", anchor: str = "middle") -> None:
        """One line of text."""
        self.parts.append(
            f'<text class="{style}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{html.escape(words)}</text>'
        )

    def arrow(self, *points: tuple[int, int]) -> None:
        """An arrow along points."""
        path = "L".join(f"{x} {y}" for x, y in points)
        self.parts.append(f'<path class="line" d="M{path}" marker-end="url(#a)"/>')

    def frame(self, x: int, y: int, w: int, h: int) -> None:
        """A dashed frame around what belongs together."""
        self.parts.append(f'<rect class="wide" x="{x}" y="{y}" width="{w}" height="{h}" rx="8"/>')

    def svg(self) -> str:
        """The file."""
        return "\n".join([*self.parts, "</svg>"]) + "\n"


def data_path() -> str:
    """From bytes in a shard to the batch of a step."""
    d = Drawing(
        "The data path",
        "The plan names the samples of step t; loader processes read, decode, crop, paste; the trainer gets batches.",
        440,
        596,
    )
    d.box(20, 20, 190, "shards\nsamples one behind the\nother, offsets in a table", "box", 84)
    d.box(230, 20, 190, "plan of step t\nwhich sample in which slot:\na function of seed and t", "sum", 84)
    d.arrow((115, 104), (115, 116), (180, 116), (180, 164))
    d.arrow((325, 104), (325, 116), (260, 116), (260, 164))
    d.frame(50, 128, 340, 330)
    d.text(64, 146, "loader", "small", "start")
    d.text(376, 146, "processes", "small", "end")
    d.box(90, 166, 260, "read\nimage and label, at their offsets", "box", 54)
    d.arrow((220, 220), (220, 238))
    d.box(90, 240, 260, "decode\nraw label ids become train ids", "box", 54)
    d.arrow((220, 294), (220, 312))
    d.box(90, 314, 260, "crop, flip, change colours\ndraws keyed by (seed, t, slot)", "box", 54)
    d.arrow((220, 368), (220, 386))
    d.box(90, 388, 260, "paste objects\ntheir pixels are anomalies: 254", "box", 54)
    d.arrow((220, 442), (220, 476))
    d.box(90, 478, 260, "batches of step t, in order\nslots of this rank, by micro-batch", "net", 54)
    d.text(220, 560, "No step depends on the one before it: a run may stop")
    d.text(220, 578, "anywhere, and go on with another number of workers.")
    return d.svg()


def one_step() -> str:
    """Forward, three losses, the sums over ranks, and what an accepted step moves."""
    d = Drawing(
        "One step",
        "Batch, segmenter, three losses, their weighted sum, backward, optimiser; four exchanges between the ranks.",
        440,
        752,
    )
    d.box(20, 20, 190, "batch of this rank\nimages, labels, domains", "box", 54)
    d.box(240, 20, 180, "counts of the step\nsum over ranks", "sum", 54)
    d.arrow((210, 47), (238, 47))
    d.arrow((115, 74), (115, 94))
    d.box(20, 96, 400, "segmenter\nlogits · features of stages · embedding of each pixel", "net", 54)
    for x in (80, 220, 360):
        d.arrow((x, 150), (x, 176))
    d.box(20, 178, 124, "L_seg\nclasses; scores\nlow on inliers,\nhigh on objects", "loss", 104)
    d.box(158, 178, 124, "L_mdat\ndiscriminators\ntell domains;\ngradient reversed", "loss", 104)
    d.box(296, 178, 124, "L_cacl\nsampled pixels:\nlike to like, away\nfrom the others", "loss", 104)
    d.box(324, 304, 96, "gather\nof all ranks", "sum", 54)
    d.box(324, 370, 96, "memory\nof past steps", "box", 54)
    d.arrow((372, 302), (372, 284))
    d.arrow((324, 397), (316, 397), (316, 292), (340, 292), (340, 284))
    d.arrow((80, 282), (80, 444))
    d.arrow((220, 282), (220, 444))
    d.arrow((304, 282), (304, 444))
    d.box(
        20,
        446,
        400,
        "L = L_seg + α · L_mdat + β · L_cacl\nshares of means over all ranks and micro-batches",
        "loss",
        54,
    )
    d.arrow((125, 500), (125, 522))
    d.arrow((335, 500), (335, 522))
    d.box(20, 524, 210, "backward\ngradients: mean over ranks", "sum", 54)
    d.box(250, 524, 170, "values of the step\nsum over ranks", "sum", 54)
    d.arrow((125, 578), (125, 600))
    d.arrow((335, 578), (335, 600))
    d.box(20, 602, 400, "finite on every rank?\nthe same numbers everywhere, so all decide alike", "box", 54)
    d.arrow((220, 656), (220, 678))
    d.box(20, 680, 400, "accepted: weights, A_s, memory, teacher move\n`MGCDA.commit`", "net", 54)
    return d.svg()


def two_ranks() -> str:
    """One global batch on two ranks: what each has of its own, and what both know."""
    d = Drawing(
        "Two ranks",
        "A batch of eight slots is cut in two; sums and gathers give both ranks the same numbers, memory and weights.",
        440,
        588,
    )
    d.text(220, 30, "the global batch of step t: eight slots", "text")
    for slot in range(8):
        d.box(20 + 50 * slot, 44, 46, str(slot), "net" if slot < 4 else "loss", 34)
    d.arrow((118, 78), (118, 104))
    d.arrow((322, 78), (322, 104))
    d.box(20, 106, 194, "rank 0\nforward of slots 0 to 3", "net", 54)
    d.box(226, 106, 194, "rank 1\nforward of slots 4 to 7", "loss", 54)
    y = 180
    for text in (
        "sum of counts\nby how much each mean is divided",
        "gather of sampled pixels\nrows and a mask, in the order of the slots",
        "sum of values and hits\nthe losses and accuracies of the whole batch",
        "mean of gradients\nthat of the whole batch, up to rounding",
    ):
        d.arrow((118, y - 20), (118, y - 2))
        d.arrow((322, y - 20), (322, y - 2))
        d.box(20, y, 400, text, "sum", 54)
        y += 74
    d.arrow((118, y - 20), (118, y - 2))
    d.arrow((322, y - 20), (322, y - 2))
    d.box(20, y, 194, "rank 0\nweights, A_s, memory", "net", 54)
    d.box(226, y, 194, "rank 1\nthe same, bit for bit", "loss", 54)
    d.text(220, y + 82, "Orange: the ranks exchange something, every step, in a")
    d.text(220, y + 100, "fixed shape. Optimiser states may be spread (ZeRO).")
    return d.svg()


FIGURES = {"data-path.svg": data_path, "step.svg": one_step, "two-ranks.svg": two_ranks}
"""File in docs/pictures → its drawing."""


if __name__ == "__main__":
    for name, draw in FIGURES.items():
        (FOLDER / name).write_text(draw(), encoding="utf-8")
