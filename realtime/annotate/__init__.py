"""Offline annotation of recordings: an overlay video and one record per frame."""
