"""What the rows of trainings say together: whether the attack works, seeds, shares frozen, steps."""
