"""Training as a modification: the loop, what holds a region still, and how the result is kept and undone."""
