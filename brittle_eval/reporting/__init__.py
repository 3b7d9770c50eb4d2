"""One page out of a run, a sweep, a probe or a landscape: its sentences, tables and charts, and two ways to draw them."""
