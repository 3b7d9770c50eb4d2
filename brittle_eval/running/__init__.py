"""A run, from what was asked to its folder and table."""
