"""Workflow files: read, checked for what they need, and run without ComfyUI."""
