"""Video files: reading every frame with its time, writing every stream back, colors and timestamps kept."""
