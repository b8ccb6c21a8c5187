"""A run and its stages: each reads what the former left in the run's folder, and skips what is already there."""
