"""Training: from data folders to a Keras model."""
