"""A file a method: to add one, put its file here (docs: adding a stage)."""
