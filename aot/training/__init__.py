"""Training of the embedded model: on drawn clips, with all their tokens, from untrained weights."""
