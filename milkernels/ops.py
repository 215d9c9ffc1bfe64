"""Operators (to come with the kernels)."""
