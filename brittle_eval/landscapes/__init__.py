"""Safety landscapes: steps away from a model along random directions or towards another one, and the scores of such a path."""
