"""Comparing poolings and systems: runs over seeds, the papers' claims, pictures and a report."""
