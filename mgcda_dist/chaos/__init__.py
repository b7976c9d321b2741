"""Fault injection: a real run hit by faults, compared with the same run without them (`mgcda chaos`)."""
