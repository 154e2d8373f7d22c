"""Stands in for liger-kernel."""
