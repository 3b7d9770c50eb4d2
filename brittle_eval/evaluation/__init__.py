"""Evaluation: the model under test inside lm-eval, its answers, and the numbers of a task."""
