"""Variants side by side: comparing, sweeping retentions, and the tables of both."""
