"""What methods have in common: the language grid, tokens of uneven frames, density clustering, budgets."""
