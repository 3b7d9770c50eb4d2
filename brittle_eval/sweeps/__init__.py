"""Sweeps: many runs as cells of one grid, on this machine or on a Ray cluster."""
