"""Packaging of rmjax; pyproject.toml holds only tools' settings."""

from setuptools import find_packages, setup

setup(
    name="rmjax",
    version="0.1.0",
    description="Reward models for RLHF from few preference labels, in JAX",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["rmjax", "rmjax.*", "configs", "configs.*"]),
    package_data={"rmjax": ["evaluation/*.html"]},
    install_requires=[
        "jax>=0.10.2",
        "flax>=0.12.8",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12.8",
        "grain>=0.2.18",
        "transformers>=5.0",
        "datasets>=5.0",
        "safetensors",
        "numpy",
        "ml_dtypes",
        "tokenizers",
        "huggingface_hub",
        "pyarrow",
        "markupsafe",
        "tyro>=0.9",
        "rich",
        "jaxtyping",
        "jinja2",
        "matplotlib",
        "scipy",
        "scikit-learn",
        "tensorboardX",
    ],
    extras_require={
        "test": ["pytest", "pytest-xdist", "pytest-cov", "hypothesis", "jaxtyping", "beartype", "ruff"],
        "parity": ["torch", "trl>=1.0", "peft>=0.21"],
        "tpu": ["jax[tpu]>=0.10.2"],
        "cuda": ["jax[cuda13]>=0.10.2"],
    },
)
