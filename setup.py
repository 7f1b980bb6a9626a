"""Packages and shipped data. `kernels/` and `datasets/` are installed as `sciguide.kernels` and `sciguide.datasets`,
`configs/` as data, through committed links inside `sciguide/`."""

from setuptools import find_packages, setup

setup(
    packages=find_packages(include=["sciguide", "sciguide.*"]),
    package_data={"sciguide": ["configs/*.yaml", "templates/*"]},
)
