"""Evaluation of a model on image-mask pairs and on clips with masks."""
