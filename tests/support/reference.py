"""The method once more, from its formulas, as plain Python loops over lists in double precision: slow and obvious.

Nothing here imports the code under test. Networks stay torch (their outputs come in as nested lists); random draws are
computed from the published SplitMix64 finaliser with Python integers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

ANOMALY, VOID = 254, 255

Draw = Callable[[int, int], float]
"""A random number for (slot, pixel)."""


def uniform(key: int, *counters: int) -> float:
    """One number in [0, 1) per counter: a chain of SplitMix64 finalisers."""
    bits = (1 << 64) - 1
    state = key
    for counter in counters:
        x = (state + (counter + 1) * 0x9E3779B97F4A7C15) & bits
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & bits
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & bits
        state = x ^ (x >> 31)
    return (state >> 11) / 2**53


def log_softmax(values: Sequence[float]) -> list[float]:
    top = max(values)
    log_total = top + math.log(sum(math.exp(v - top) for v in values))
    return [v - log_total for v in values]


# ---------------------------------------------------------------------------------------------------- segmentation loss


def segmentation_terms(logits: list, label: list, num_classes: int) -> tuple[float, float, float]:
    """Means of the cross-entropy and of the two energy hinges of `PlainSegmentationLoss`: N×C×H×W, N×H×W."""
    cross_entropy, inlier_hinge, anomaly_hinge = [], [], []
    for image_logits, image_label in zip(logits, label, strict=True):
        for y, row in enumerate(image_label):
            for x, value in enumerate(row):
                pixel = [image_logits[c][y][x] for c in range(num_classes)]
                energy = -math.log(sum(math.exp(v) for v in pixel))
                if value < num_classes:
                    cross_entropy.append(-log_softmax(pixel)[value])
                    inlier_hinge.append(max(0.0, energy + 1.5) ** 2)
                elif value == ANOMALY:
                    anomaly_hinge.append(max(0.0, -0.5 - energy) ** 2)
    return mean(cross_entropy), mean(inlier_hinge), mean(anomaly_hinge)


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


# ----------------------------------------------------------------------------------------------------------------- MDAT


def reversal_strength(progress: float, maximum: float) -> float:
    return maximum * (2.0 / (1.0 + math.exp(-10.0 * progress)) - 1.0)


def epsilon_of(
    mode: str, value: float, num_domains: int, progress: float, accuracy: float, own_probabilities: Sequence[float]
) -> float:
    """ε of one image; `own_probabilities`: softmax(D)_{d_i} at the image's locations that count."""
    chance = 1.0 / num_domains
    if mode == "constant":
        epsilon = value
    elif mode == "annealed":
        epsilon = value * progress
    elif mode == "adaptive_sample":
        epsilon = value * mean(own_probabilities)
    elif mode == "adaptive_stage":
        epsilon = value * min(1.0, max(0.0, (accuracy - chance) / (1.0 - chance)))
    else:
        raise ValueError(mode)
    return min(epsilon, 0.5 * (num_domains - 1) / num_domains)


def _span(cell: int, length: int, num_cells: int) -> range:
    """Pixels of a cell along one side."""
    return range(cell * length // num_cells, -(-(cell + 1) * length // num_cells))


def unlabelled_of(label: list, told: Sequence[bool] | None) -> list[bool]:
    """Per image of N×H×W labels: without labels of its own, as somebody knows or, told by nobody, as the labels say."""
    seen = [all(value in (ANOMALY, VOID) for row in image for value in row) for image in label]
    return seen if told is None else list(told)


def kept_locations(
    label: list, height: int, width: int, mask_anomalies: bool = True, unlabelled: Sequence[bool] | None = None
) -> list:
    """N×height×width: true if at least half of a cell's pixels may be aligned. Cells are those of adaptive pooling."""
    kept = []
    for image, bare in zip(label, unlabelled_of(label, unlabelled), strict=True):
        kept.append([])
        for i in range(height):
            kept[-1].append([])
            for j in range(width):
                ys, xs = _span(i, len(image), height), _span(j, len(image[0]), width)
                values = [image[y][x] for y in ys for x in xs]
                scene = [v == VOID if bare else v not in (ANOMALY, VOID) for v in values]
                alignable = [not mask_anomalies or each for each in scene]
                kept[-1][-1].append(mean([float(each) for each in alignable]) >= 0.5)
    return kept


@dataclass
class Mdat:
    """L_mdat and what it was made of: ε per stage and image, domain-balanced accuracy per stage (None: no location)."""

    loss: float
    epsilon: list[list[float]]
    accuracy: list[float | None]


def mdat(
    stage_logits: Sequence[list],
    domains: Sequence[int],
    kept: Sequence[list],
    *,
    weights: Sequence[float],
    mode: str,
    value: float,
    running_accuracy: Sequence[float],
    progress: float,
) -> Mdat:
    """Σ_s w_s · mean over domains of mean over locations of CE(D_s(f), q_s(d)); `stage_logits`: per stage N×M×h×w."""
    result = Mdat(0.0, [], [])
    for s, logits in enumerate(stage_logits):
        num_domains = len(logits[0])
        losses: dict[int, list[float]] = {}
        hits: dict[int, list[float]] = {}
        epsilons = []
        for i, d in enumerate(domains):
            places = [(y, x) for y, row in enumerate(kept[s][i]) for x, keep in enumerate(row) if keep]
            log_p = [log_softmax([logits[i][m][y][x] for m in range(num_domains)]) for y, x in places]
            epsilon = epsilon_of(
                mode, value, num_domains, progress, running_accuracy[s], [math.exp(row[d]) for row in log_p]
            )
            epsilons.append(epsilon)
            for row in log_p:
                target = [1 - epsilon if k == d else epsilon / (num_domains - 1) for k in range(num_domains)]
                losses.setdefault(d, []).append(-sum(q * v for q, v in zip(target, row, strict=True)))
                hits.setdefault(d, []).append(float(row.index(max(row)) == d))
        result.loss += weights[s] * mean([mean(values) for values in losses.values()])
        result.epsilon.append(epsilons)
        result.accuracy.append(mean([mean(values) for values in hits.values()]) if hits else None)
    return result


def class_probabilities(logits: list, height: int, width: int) -> list:
    """N×C×height×width: mean over the pixels of each cell of the softmax of N×C×h×w logits."""
    result = []
    for image in logits:
        h, w, classes = len(image[0]), len(image[0][0]), range(len(image))
        log_p = [[log_softmax([image[k][y][x] for k in classes]) for x in range(w)] for y in range(h)]
        result.append([[[0.0] * width for _ in range(height)] for _ in classes])
        for i in range(height):
            for j in range(width):
                ys, xs = _span(i, h, height), _span(j, w, width)
                for k in classes:
                    result[-1][k][i][j] = mean([math.exp(log_p[y][x][k]) for y in ys for x in xs])
    return result


def conditional_mdat(
    logits: list, domains: Sequence[int], kept: list, probabilities: list, *, by_class: bool, epsilon: float,
    weigh: bool,
) -> float:  # fmt: skip
    """Mean over domains of mean over kept locations of w · -Σ_m q(d)_m Σ_k a_k log p(m, k), or … log p(m)."""
    losses: dict[int, list[float]] = {}
    for i, d in enumerate(domains):
        num_classes = len(probabilities[i])
        num_domains = len(logits[i]) // num_classes if by_class else len(logits[i])
        for y, row in enumerate(kept[i]):
            for x, keep in enumerate(row):
                if not keep:
                    continue
                log_p, a = log_softmax([plane[y][x] for plane in logits[i]]), [p[y][x] for p in probabilities[i]]
                if by_class:
                    rows = [log_p[m * num_classes : (m + 1) * num_classes] for m in range(num_domains)]
                    log_p = [sum(share * v for share, v in zip(a, row, strict=True)) for row in rows]
                target = [1 - epsilon if m == d else epsilon / (num_domains - 1) for m in range(num_domains)]
                entropy = -sum(share * math.log(share) for share in a)
                weight = (1 + math.exp(-entropy)) / 2 if weigh else 1.0
                losses.setdefault(d, []).append(-weight * sum(q * v for q, v in zip(target, log_p, strict=True)))
    return mean([mean(values) for values in losses.values()])


def _close(i: int, j: int, objects: list, rows: float, columns: float) -> bool:
    return any(abs(i - y) <= rows and abs(j - x) <= columns for y, x in objects)


def cell_masks(
    label: list, height: int, width: int, reach_px: int | None, unlabelled: Sequence[bool] | None = None
) -> tuple[list, list, list]:
    """Aligned, near and far cells, each N×height×width: see `mdat.masks.CellMasks`."""
    scene = kept_locations(label, height, width, True, unlabelled)
    aligned, near, far = [], [], []
    for image, kept in zip(label, scene, strict=True):
        cell_px = len(image) / height, len(image[0]) / width
        objects = [(i, j) for i in range(height) for j in range(width)
                   if any(image[y][x] == ANOMALY for y in _span(i, len(image), height)
                          for x in _span(j, len(image[0]), width))]  # fmt: skip

        cells = [[(i, j) for j in range(width)] for i in range(height)]
        near.append([[kept[i][j] and _close(i, j, objects, 1, 1) for i, j in row] for row in cells])
        far.append([[kept[i][j] and not _close(i, j, objects, 1, 1) for i, j in row] for row in cells])
        reach = [-1.0 if reach_px is None else math.ceil(reach_px / side) for side in cell_px]
        aligned.append(
            [[kept[i][j] and not _close(i, j, objects, reach[0], reach[1]) for i, j in row] for row in cells]
        )
    return aligned, near, far


# -------------------------------------------------------------------------------------------------------------- teacher


@dataclass
class Taught:
    """The answers of the teacher for N images of h×w cells.

    Attributes:
        labels: N×h×w; None where it gives none.
        weights: N.
        inliers: N×h×w: not among its highest scores.
        total: how many cells it might have labelled.
    """

    labels: list
    weights: list[float]
    inliers: list
    total: int


def teacher_labels(
    logits: list,
    score: list,
    label: list,
    *,
    confidence: float,
    score_quantile: float,
    unlabelled: Sequence[bool] | None = None,
) -> Taught:
    """For N×C×h×w logits and N×h×w scores of the teacher, and N×H×W labels."""
    taught = Taught([], [], [], 0)
    for of_image, scores, own, bare in zip(logits, score, label, unlabelled_of(label, unlabelled), strict=True):
        height, width = len(scores), len(scores[0])
        cells = [(i, j) for i in range(height) for j in range(width)
                 if bare and own[int((i + 0.5) * len(own) / height)][int((j + 0.5) * len(own[0]) / width)]
                 == VOID]  # fmt: skip
        taught.labels.append([[None] * width for _ in range(height)])
        taught.inliers.append([[False] * width for _ in range(height)])
        ordered, sure = sorted(scores[i][j] for i, j in cells), 0
        for i, j in cells:
            probabilities = [math.exp(x) for x in log_softmax([channel[i][j] for channel in of_image])]
            normal = scores[i][j] <= ordered[int(score_quantile * (len(cells) - 1))]
            taught.inliers[-1][i][j] = normal
            if max(probabilities) >= confidence:
                sure += 1
                if normal:
                    taught.labels[-1][i][j] = probabilities.index(max(probabilities))
        taught.weights.append(sure / len(cells) if cells else 0.0)
        taught.total += len(cells)
    return taught


def teacher_loss(logits: list, taught: Taught, outlier_weight: float = 0.0) -> float:
    """Of N×C×h×w logits: cross-entropy to these labels, each image with its weight, and the inlier hinge of
    `PlainSegmentationLoss`, over all cells of the teacher."""
    summed = 0.0
    for n, of_image in enumerate(logits):
        for i, row in enumerate(taught.labels[n]):
            for j, kind in enumerate(row):
                pixel = [channel[i][j] for channel in of_image]
                if kind is not None:
                    summed -= taught.weights[n] * log_softmax(pixel)[kind]
                if taught.inliers[n][i][j]:
                    energy = -math.log(sum(math.exp(v) for v in pixel))
                    summed += outlier_weight * max(0.0, energy + 1.5) ** 2
    return summed / taught.total if taught.total else 0.0


# ----------------------------------------------------------------------------------------------------------------- CACL


def pixel_types(
    label: list, height: int, width: int, num_classes: int, unlabelled: Sequence[bool] | None = None
) -> list[list[int | None]]:
    """N×(height·width): inlier class, C for an anomaly, None for pixels nobody samples; nearest label to the centre."""
    types: list[list[int | None]] = []
    for image, bare in zip(label, unlabelled_of(label, unlabelled), strict=True):
        types.append([])
        for i in range(height):
            for j in range(width):
                y = int((i + 0.5) * len(image) / height)
                x = int((j + 0.5) * len(image[0]) / width)
                value = image[y][x]
                own = value if value < num_classes and not bare else None
                types[-1].append(num_classes if value == ANOMALY else own)
    return types


def difficulties(types: list[list[int | None]], scores: list[list[float]], num_classes: int) -> list[list[float]]:
    """An anomaly is hard when its score is low, an inlier when its score is high."""
    return [
        [-score if kind == num_classes else score for kind, score in zip(image, image_scores, strict=True)]
        for image, image_scores in zip(types, scores, strict=True)
    ]


def quotas(
    types: list[list[int | None]],
    difficulty: list[list[float]],
    *,
    num_classes: int,
    inlier_pixels: int,
    anomaly_pixels: int,
    image_aware: bool,
) -> list[tuple[int, int]]:
    """Per image of the global batch: pixels per inlier class, anomaly pixels."""
    sides = []
    for average, wanted in ((inlier_pixels, False), (anomaly_pixels, True)):
        means = []
        for image, values in zip(types, difficulty, strict=True):
            chosen = [v for t, v in zip(image, values, strict=True) if t is not None and (t == num_classes) == wanted]
            means.append(mean(chosen) if chosen else None)
        present = [m for m in means if m is not None]
        if not image_aware:
            sides.append([0 if m is None else average for m in means])
            continue
        centre = mean(present)
        spread = math.sqrt(mean([(m - centre) ** 2 for m in present]))
        weights = [0.0 if m is None else math.exp((m - centre) / (2 * spread + 1e-6)) for m in means]
        side, running, given = [], 0.0, 0
        for weight in weights:
            running += weight / sum(weights) * average * len(present) if weight else 0.0
            total = math.floor(running + 0.5)
            side.append(min(total - given, 2 * average))
            given = total
        sides.append(side)
    return list(zip(*sides, strict=True))


def sample(
    types: list[list[int | None]],
    difficulty: list[list[float]],
    quota: list[tuple[int, int]],
    *,
    num_classes: int,
    hard_fraction: float,
    slots: Sequence[int],
    draw: Draw,
) -> list[dict[int, list[int]]]:
    """Per image {type: pixels}: the hardest first in order of difficulty, then the rest in order of their draw."""
    chosen = []
    for image, values, (inlier_quota, anomaly_quota), slot in zip(types, difficulty, quota, slots, strict=True):
        chosen.append({})
        for kind in range(num_classes + 1):
            wanted = anomaly_quota if kind == num_classes else inlier_quota
            pixels = [p for p, t in enumerate(image) if t == kind]
            hard = sorted(pixels, key=lambda p: (-values[p], p))[: round(wanted * hard_fraction)]
            rest = sorted((p for p in pixels if p not in hard), key=lambda p: draw(slot, p))
            chosen[-1][kind] = (hard + rest)[:wanted]
    return chosen


def sampled(
    label: list,
    score: list,
    slots: Sequence[int],
    draw: Draw,
    *,
    num_classes: int,
    anomaly_pixels: int,
    inlier_pixels: int,
    hard_fraction: float,
    image_aware: bool,
    unlabelled: Sequence[bool] | None = None,
) -> tuple[list[dict[int, list[int]]], list[list[float]]]:
    """`sample` and `difficulties` of labels N×H×W and scores N×h×w."""
    types = pixel_types(label, len(score[0]), len(score[0][0]), num_classes, unlabelled)
    difficulty = difficulties(types, [[value for row in image for value in row] for image in score], num_classes)
    quota = quotas(
        types, difficulty, num_classes=num_classes, inlier_pixels=inlier_pixels, anomaly_pixels=anomaly_pixels,
        image_aware=image_aware,
    )  # fmt: skip
    chosen = sample(
        types, difficulty, quota, num_classes=num_classes, hard_fraction=hard_fraction, slots=slots, draw=draw
    )
    return chosen, difficulty


@dataclass
class Row:
    """A sampled pixel."""

    z: list[float]
    type: int
    domain: int
    difficulty: float
    id: int


RowDraw = Callable[[str, int], float]
"""A random number for (purpose, row id)."""


def in_turn(rows: list[Row], turn: float) -> list[Row]:
    """The rows from place ⌊turn·n⌋ on, and around."""
    place = int(turn * len(rows))
    return rows[place:] + rows[:place]


def positives_of(
    anchor: Row, candidates: Sequence[Row], *, num_positives: int, positives: str, cross_domain: bool, draw: RowDraw
) -> list[Row]:
    """Rows of the anchor's type: those of other domains (or, without `cross_domain`, of its own) come first."""
    purpose, turn = ("contrast", 0.0) if positives == "shared" else ("positives", draw("turn", anchor.id))
    same = sorted((row for row in candidates if row.type == anchor.type), key=lambda row: draw(purpose, row.id))
    first = [row for row in same if (row.domain != anchor.domain) == cross_domain]
    second = [row for row in same if (row.domain != anchor.domain) != cross_domain]
    ordered = in_turn(first, turn) + in_turn(second, turn)
    return [row for row in ordered if row.id != anchor.id][:num_positives]


def nearest_of(anchor: Row, candidates: Sequence[Row], k: int) -> list[Row]:
    """The k most similar rows, in steps of 2^-16, and all that are as similar as the last of them."""
    nearness = [round(65536 * dot(anchor.z, row.z)) for row in candidates]
    threshold = min(sorted(nearness, reverse=True)[:k], default=0)
    return [row for row, near in zip(candidates, nearness, strict=True) if k and near >= threshold]


def negatives_of(
    anchor: Row,
    candidates: Sequence[Row],
    *,
    anomaly_type: int,
    num_negatives: int,
    hard_negative_fraction: float,
    negatives: str,
    negatives_by: str,
    draw: RowDraw,
) -> list[Row]:
    """Of each side the most difficult rows, then some at random; of these, those of another kind than the anchor.

    By similarity: of all rows of another kind the nearest, and of each side some at random.
    """
    found: list[Row] = []
    num_hard = round(num_negatives * hard_negative_fraction)
    if negatives_by == "similarity":
        others = [row for row in candidates if repels(anchor, row, anomaly_type, negatives)]
        nearest = {row.id for row in nearest_of(anchor, others, num_hard)}
        for of_anomalies in (False, True):
            side = [row for row in candidates if (row.type == anomaly_type) == of_anomalies]
            found += sorted(side, key=lambda row: draw("contrast", row.id))[: num_negatives - num_hard]
        chosen = nearest | {row.id for row in found}
        return [row for row in others if row.id in chosen]
    for of_anomalies in (False, True):
        side = [row for row in candidates if (row.type == anomaly_type) == of_anomalies]
        hard = sorted(side, key=lambda row: -row.difficulty)[:num_hard]
        rest = sorted((row for row in side if row not in hard), key=lambda row: draw("contrast", row.id))
        found += (hard + rest)[:num_negatives]
    return [row for row in found if repels(anchor, row, anomaly_type, negatives)]


def repels(anchor: Row, row: Row, anomaly_type: int, negatives: str) -> bool:
    if negatives == "other_type":
        return row.type != anchor.type
    return (row.type == anomaly_type) != (anchor.type == anomaly_type)


def dot(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def mean_over_anchors(terms: Sequence[tuple[Row, float]], anomaly_type: int, balance: str) -> float:
    """L_cacl of `contrastive`: a mean over anchors, or one over those of each side, then over the sides."""
    if balance == "anchors":
        return mean([value for _, value in terms])
    sides = [[value for row, value in terms if (row.type == anomaly_type) == side] for side in (False, True)]
    return mean([mean(side) for side in sides if side])


def contrastive(
    anchors: Sequence[Row],
    candidates: Sequence[Row],
    *,
    anomaly_type: int,
    temperature: float,
    num_positives: int,
    num_negatives: int,
    hard_negative_fraction: float,
    cross_domain: bool,
    draw: RowDraw,
    negatives: str = "opposite_side",
    positives: str = "shared",
    negatives_by: str = "difficulty",
) -> list[tuple[Row, float]]:
    """The inner term of L_cacl of each anchor that has a positive."""
    terms: list[tuple[Row, float]] = []
    for anchor in anchors:
        attracting = positives_of(
            anchor, candidates, num_positives=num_positives, positives=positives, cross_domain=cross_domain, draw=draw
        )
        repelling = negatives_of(
            anchor, candidates, anomaly_type=anomaly_type, num_negatives=num_negatives,
            hard_negative_fraction=hard_negative_fraction, negatives=negatives, negatives_by=negatives_by, draw=draw,
        )  # fmt: skip
        repulsion = sum(math.exp(dot(anchor.z, row.z) / temperature) for row in repelling)
        near = [math.exp(dot(anchor.z, row.z) / temperature) for row in attracting]
        if near:
            terms.append((anchor, -mean([math.log(s / (s + repulsion)) for s in near])))
    return terms


@dataclass
class Gaussians:
    """Weight, mean and variance per (domain, type), each of all rows so far: (row, weight of the row)."""

    momentum: float
    rows: dict[tuple[int, int], list[tuple[list[float], float]]] = field(default_factory=dict)

    def push(self, rows: Sequence[Row]) -> None:
        """The rows of a step; what came before into the same distributions weighs less from now on."""
        for key in {(row.domain, row.type) for row in rows}:
            known = [(z, self.momentum * weight) for z, weight in self.rows.get(key, [])]
            self.rows[key] = known + [(row.z, 1.0) for row in rows if (row.domain, row.type) == key]

    def moments(self, key: tuple[int, int]) -> tuple[list[float], list[float]]:
        total = sum(weight for _, weight in self.rows[key])
        dims = range(len(self.rows[key][0][0]))
        means = [sum(weight * z[k] for z, weight in self.rows[key]) / total for k in dims]
        spread = [sum(weight * (z[k] - means[k]) ** 2 for z, weight in self.rows[key]) / total for k in dims]
        return means, spread


def contrastive_in_expectation(
    anchors: Sequence[Row],
    gaussians: Gaussians,
    *,
    anomaly_type: int,
    temperature: float,
    cross_domain: bool,
    negatives: str,
) -> list[tuple[Row, float]]:
    """The closed-form bound per anchor whose type has a distribution."""
    known = {key: gaussians.moments(key) for key in sorted(gaussians.rows)}
    terms: list[tuple[Row, float]] = []
    for anchor in anchors:

        def mean_of(key: tuple[int, int], anchor: Row = anchor) -> float:
            return dot(anchor.z, known[key][0]) / temperature

        def log_expected(key: tuple[int, int], anchor: Row = anchor) -> float:
            spread = sum(v * z * z for v, z in zip(known[key][1], anchor.z, strict=True))
            return dot(anchor.z, known[key][0]) / temperature + spread / (2 * temperature**2)

        same = [key for key in known if key[1] == anchor.type]
        first = [key for key in same if (key[0] != anchor.domain) == cross_domain]
        repelling = [key for key in known if repels(anchor, Row([], key[1], key[0], 0.0, 0), anomaly_type, negatives)]
        repulsion = sum(math.exp(log_expected(key)) for key in repelling)
        bounds = [math.log(math.exp(log_expected(key)) + repulsion) - mean_of(key) for key in first or same]
        if bounds:
            terms.append((anchor, mean(bounds)))
    return terms


def few_per_image(rows: Sequence[Row], rows_reserved: int, limit: int | None, draw: RowDraw) -> list[Row]:
    """Of each image and type the `limit` rows with the smallest draw, in the order they had; None: all."""
    kept: list[Row] = []
    for row in rows:
        peers = [r for r in rows if (r.id // rows_reserved, r.type) == (row.id // rows_reserved, row.type)]
        before = [peer for peer in peers if draw("memory", peer.id) < draw("memory", row.id)]
        if limit is None or len(before) < limit:
            kept.append(row)
    return kept


@dataclass
class Memory:
    """Rings of (z, type, difficulty, step), one per (domain, side): a list of places and a place to write next."""

    num_domains: int
    num_classes: int
    capacity: int
    places: list[list[tuple[list[float], int, float, int] | None]] = field(default_factory=list)
    cursors: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.places = [[None] * self.capacity for _ in range(2 * self.num_domains)]
        self.cursors = [0] * (2 * self.num_domains)

    def push(self, rows: Sequence[Row], step: int) -> None:
        for row in rows:
            ring = 2 * row.domain + int(row.type == self.num_classes)
            if self.capacity:
                self.places[ring][self.cursors[ring]] = (row.z, row.type, row.difficulty, step)
                self.cursors[ring] = (self.cursors[ring] + 1) % self.capacity

    def rows(self) -> list[Row]:
        """All filled places, with ids that count down from -1."""
        found = []
        for ring, places in enumerate(self.places):
            for i, place in enumerate(places):
                if place is not None:
                    found.append(Row(place[0], place[1], ring // 2, place[2], -1 - (ring * self.capacity + i)))
        return found
