"""Compile a program for a TPU slice that is not there: memory, time, MFU and cost by the TPU's compiler."""

from rmjax.jobs.compile import CompileJob


def get_config() -> CompileJob:
    return CompileJob()
