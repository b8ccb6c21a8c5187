"""Everything the notebooks draw, and what they look at beside the result table."""
