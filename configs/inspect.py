"""Inspect preference data: duplicates, contradictions, cycles, leaks into a test, artefacts, broken text."""

from rmjax.jobs.inspect import InspectJob


def get_config() -> InspectJob:
    return InspectJob()
