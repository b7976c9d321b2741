"""`mgcda laws`: a plug-in or a configuration run through the laws of the distributed form, with numbers.

    report = check_laws(subject_of("plugin:uem", score="plugin:uem_score"))
    for finding in report.findings:
        print(finding.law, finding.title, finding.verdict, finding.number)

`subject.py` says what is examined; every other file has one kind of law. Nothing of a user's data is read: batches are
generated.
"""

from mgcda_dist.laws.check import check_laws
from mgcda_dist.laws.findings import Finding, LawsReport, Verdict
from mgcda_dist.laws.subject import Subject, subject_of

__all__ = ["Finding", "LawsReport", "Subject", "Verdict", "check_laws", "subject_of"]
