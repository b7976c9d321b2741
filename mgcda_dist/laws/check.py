"""All laws, one after another: what is told on the way, and what a failure of the subject's own code means."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from mgcda_dist import build
from mgcda_dist.errors import ConfigError, MgcdaError
from mgcda_dist.laws import alone, exported, invariance, zero
from mgcda_dist.laws.findings import Finding, LawsReport
from mgcda_dist.laws.parts import PartsPlayed, parts, play_cases
from mgcda_dist.laws.probes import outputs
from mgcda_dist.laws.ranks import NoAnswerError, RankError, RankFound, Request, run_ranks
from mgcda_dist.laws.sign import sign
from mgcda_dist.laws.subject import Subject, model_of
from mgcda_dist.references import told

__all__ = ["check_laws"]

WORLDS = (2, 4)


def check_laws(
    subject: Subject,
    *,
    worlds: Sequence[int] = WORLDS,
    zero_stages: Sequence[int] = zero.STAGES,
    with_onnx: bool = True,
    tell: Callable[[str], None] = lambda doing: None,
) -> LawsReport:
    """Run a subject through the laws of the distributed form.

    Args:
        worlds: numbers of ranks beside 1 that divide 4, real processes; none: no process is started.
        zero_stages: to train with on two ranks; none: left out, with a note. Needs `worlds` and DeepSpeed.
        with_onnx: export to ONNX, too, where its packages are installed.
        tell: is told what is being done.

    Returns:
        Typed findings, one or more per law. A subject whose code raises has broken the law that was looked at.

    Raises:
        ConfigError: a configuration from which nothing can be made: there is no loss to examine.
        NoAnswerError: a rank died, for example because memory ran out.
    """
    began, findings = time.monotonic(), list[Finding]()
    notes = [*subject.notes]
    tell("building")
    refusal = _refusal(subject)
    try:
        model = model_of(subject)
    except Exception as error:  # of what was refused before, for whatever reason
        if refusal is not None:
            raise refusal from None
        raise error
    size: tuple[int, int] = model.segmenter.example_size  # pyright: ignore[reportAssignmentType]
    size = size[0] // 8 * 8, size[1] // 8 * 8
    seen = outputs(model, size, subject.num_classes)

    def attempt(law: str, title: str, check: Callable[[], Finding]) -> None:
        tell(title)
        try:
            findings.append(check())
        except NoAnswerError:
            raise
        except Exception as error:  # a user's code raises every kind
            findings.append(_raised(law, title, error))

    around: PartsPlayed = {}

    def with_parts() -> Finding:
        nonlocal around
        around = play_cases(subject, size)
        return parts(subject, size, around)

    attempt("parts", "with and without MDAT, CACL, teacher", with_parts)
    attempt(
        "1, 6",
        "ranks and accumulation agree",
        lambda: _invariance(subject, size, worlds, zero_stages, around, findings, tell),
    )
    attempt("2", "randomness keyed by seed, step and slot", lambda: alone.randomness(subject, model, seen))
    attempt("3", "empty sides: finite, and every parameter touched", lambda: alone.empty_sides(model, subject, size))
    attempt("4", "no buffer changes in a forward pass", lambda: alone.buffers(model_of(subject), subject, size))
    attempt("4", "resume from a snapshot is bitwise equal", lambda: alone.resume(subject, size))
    with tempfile.TemporaryDirectory(prefix="mgcda-laws-") as name:
        folder = Path(name)
        attempt("5", "export: kept heads load strictly", lambda: exported.exported(subject, size, folder))
        attempt("5", "score by halves equals the whole", lambda: exported.score_by_halves(subject, size))
        if with_onnx and findings[-2].verdict == "kept":
            attempt("5", "ONNX gives the same scores", lambda: exported.onnx(folder, size))
    attempt("sign", "sign: anomalies up, inliers down", lambda: sign(model, seen, subject.num_classes))
    if refusal is not None and not any(each.verdict == "broken" for each in findings):
        findings.append(Finding("check", "config check", "broken", None, refusal.where, refusal.problem))
    if not zero_stages or not worlds:
        notes.append("ZeRO was left out")
    if not worlds:
        notes.append("no processes were started: W = 2 and 4 were left out")
    return LawsReport(subject.name, tuple(notes), tuple(_in_order(findings)), time.monotonic() - began)


def _refusal(subject: Subject) -> ConfigError | None:
    """The refusal of `mgcda config check`, which the laws explain with numbers."""
    network = build.segmenter(subject.config)
    try:
        build.check_pairs(subject.config, network, build.dropped_heads(subject.config, network))
    except ConfigError as error:
        return error
    return None


def _invariance(
    subject: Subject,
    size: tuple[int, int],
    worlds: Sequence[int],
    stages: Sequence[int],
    around: PartsPlayed,
    findings: list[Finding],
    tell: Callable[[str], None],
) -> Finding:
    """Laws 1 and 6; the finding about ZeRO, for which the same processes are used, is added to the others."""
    model = model_of(subject)
    seen = outputs(model, size, subject.num_classes)
    whole = invariance.whole_steps(model, subject, size)
    differences = invariance.accumulated(model, subject, size, whole)
    everyone, failure = list[RankFound](), None
    if worlds:
        tell(f"starting {max(worlds)} processes")
        request = Request(subject, tuple(worlds), size, whole, tuple(stages), around=around)
        try:
            everyone = run_ranks(request, tell)
        except RankError as error:
            failure = error
    finding = invariance.compared(model, seen, differences, everyone)
    if failure is not None and finding.verdict == "kept":
        raise failure
    if everyone and stages:
        findings.append(zero.compared([each.trained for each in everyone[:2]], zero.train_plain(subject, size)))
    return finding


def _raised(law: str, title: str, error: Exception) -> Finding:
    if isinstance(error, RankError):
        return Finding(law, title, "broken", None, f"rank {error.rank}", f"raises {error.text}")
    if isinstance(error, MgcdaError):
        return Finding(law, title, "broken", None, error.where, error.problem)
    hint = ""
    if "process group" in str(error):
        hint = "; it asks torch.distributed, which a loss never needs: sums over ranks are the caller's"
    return Finding(law, title, "broken", None, "", f"raises {told(error)}{hint}")


def _in_order(findings: Sequence[Finding]) -> list[Finding]:
    order = ["1, 6", "2", "3", "4", "5", "parts", "zero", "sign", "check"]
    return sorted(findings, key=lambda each: order.index(each.law))
