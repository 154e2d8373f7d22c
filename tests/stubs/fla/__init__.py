"""Stands in for fla-core."""
