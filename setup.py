"""Packages and shipped data. `kernels/` and `datasets/` are installed as `sciguide.kernels` and `sciguide.datasets`
through the committed links `sciguide/kernels -> ../kernels` and `sciguide/datasets -> ../datasets`, `configs/` as data."""

from setuptools import find_packages, setup

setup(
    packages=find_packages(include=["sciguide", "sciguide.*"]),
    package_data={"sciguide": ["configs/*.yaml", "templates/*"]},
)
