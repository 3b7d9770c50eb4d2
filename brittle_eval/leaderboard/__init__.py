"""Rows of many runs in one table, in six formats; and rows checked against what they rest on."""
