"""Vetting: a stranger's candidate goes in, a verdict comes out.

The candidate runs in a process of its own (`guest`), behind a `session` that the parent can lose at any time; what
comes back is plain arrays. The parent draws the inputs, solves the truth, judges, and reaches the verdict.
"""
