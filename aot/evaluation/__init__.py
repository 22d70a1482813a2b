"""Video questions whose answers are known."""
