"""Model organisms: the embedded model, plants, and attributions held against the truth."""
