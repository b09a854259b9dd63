"""Readers of labels that annotation tools export, and their import as training data."""
