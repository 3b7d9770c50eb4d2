"""One page out of a run, a sweep or a probe: the source, its sentences, tables and charts, and two ways to draw them."""
