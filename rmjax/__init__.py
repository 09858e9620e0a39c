"""Reward models for RLHF from few preference labels, in JAX."""

import os

# Without torch, transformers warns at its import that "models won't be available"; those here are rmjax's own.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
