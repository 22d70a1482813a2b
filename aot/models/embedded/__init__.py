"""The embedded model: its sources on the package index, its trained weights, and how they become one model."""
