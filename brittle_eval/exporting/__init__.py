"""Edits written to disk, with a card."""
