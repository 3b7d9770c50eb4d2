"""The engine: what is observed of a model, scored, isolated, edited and undone; and the controls."""
