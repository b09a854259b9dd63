"""Viewers of a live feed: a page in browsers, a window, a virtual camera, metrics, and none at all."""
