"""A benchmarking and numerical-stability harness for cross-entropy loss implementations."""
