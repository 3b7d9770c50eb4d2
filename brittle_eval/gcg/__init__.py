"""The search for an adversarial suffix by greedy coordinate gradient."""
