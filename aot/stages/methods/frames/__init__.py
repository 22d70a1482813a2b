"""Methods that act on frames before the encoder: which of them it sees, and how large."""
