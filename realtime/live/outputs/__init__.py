"""Outputs of a live session beside viewers and recordings: pushed streams and published events."""
