"""Judgement of stored answers: judges, their verdicts, their agreement, and people's labels."""
