"""The brittleness curve: how the answers to unsafe requests change with the size of the edited region."""
