"""nbval compares the outputs of marked cells; what a library writes to stderr is no output of ours."""


def pytest_collectstart(collector):
    """Leaves stderr out of the comparison (only notebook collectors have the setting)."""
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += ("stderr",)
