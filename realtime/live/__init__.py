"""Live feeds: contours on the picture as it comes, never late, never wrong in silence."""
