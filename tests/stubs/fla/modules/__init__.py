"""Stands in for the package of its modules."""
