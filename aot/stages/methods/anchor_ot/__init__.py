"""AOT's own stages: phase I inside a frame, phase II along a clip, and both to one budget."""
