"""What any method has to be better than."""
