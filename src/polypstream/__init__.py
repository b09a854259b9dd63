"""Outlines every polyp in colonoscopy video, live and on recordings. Research software, not a medical device."""

from importlib.metadata import version

__version__ = version("polypstream")
