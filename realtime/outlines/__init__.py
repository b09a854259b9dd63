"""Polyp outlines: from probability maps to contours, and from contours to pixels."""
