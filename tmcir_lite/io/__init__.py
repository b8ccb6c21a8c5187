"""Files, progress, processes and errors: what everything else stands on, and knows nothing of the subject."""
