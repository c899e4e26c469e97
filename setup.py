"""The thin file that older tools need; everything stands in pyproject.toml."""

from setuptools import setup

setup()
