"""Many videos: the same questions about each, and a row on disk for every answer as soon as it is there."""
