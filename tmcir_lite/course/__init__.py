"""What makes the notebooks a course: exercises with their checks, the tour, and first cells that bring the package."""
