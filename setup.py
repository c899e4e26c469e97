"""Packaging of sop_jax."""

from setuptools import find_packages, setup

setup(
    name="sop-jax",
    version="0.1.0",
    description="Train image classifiers on wrong labels with SOP / SOP+ in JAX, and list the wrong labels.",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["sop_jax", "sop_jax.*"]),
    package_data={"sop_jax": ["templates/*.html"]},
    install_requires=[
        "jax>=0.10",
        "flax>=0.12",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12",
        "tensorflow-datasets>=4.9.10",
        "importlib_resources",  # tensorflow-datasets imports it without asking for it
        "array_record",
        "ml-collections>=1.1",
        "chex>=0.1.92",
        "absl-py",
        "numpy",
        "scipy",
        "filelock>=3.12",
        "scikit-learn",
        "tqdm",
        "matplotlib",
        "jinja2",
        "tensorboardX",
        "pillow",
    ],
    extras_require={
        "theory": ["cvxpy"],  # the reference solver of linear_recovery
        "dev": [
            "cvxpy",
            "pytest",
            "pytest-xdist",
            "hypothesis",
            "ruff",
            "nbclient",
            "nbformat",
            "ipykernel",
        ],
        "gpu": ["jax[cuda12]"],
        "tpu": ["jax[tpu]"],
    },
)
