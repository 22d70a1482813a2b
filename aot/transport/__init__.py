"""Optimal transport between two sets of tokens: costs, solvers, and Sinkhorn itself."""
