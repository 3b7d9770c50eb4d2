"""Behaviours: sets of prompts and responses, where they come from, and how they reach the model."""
