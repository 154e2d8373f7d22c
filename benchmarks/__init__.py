"""The asv suite: speed over the commits of this repository, see CONTRIBUTING.md for its traps."""
