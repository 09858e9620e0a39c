"""Judge synthetic pairs again: agreement by aspect and direction, what style gives away, dropping and weighing."""

from rmjax.jobs.audit import AuditJob


def get_config() -> AuditJob:
    return AuditJob()
