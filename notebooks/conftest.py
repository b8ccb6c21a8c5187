"""nbval runs the notebooks on a small world, in minutes, and compares marked cells' outputs, the same in any run."""

SMOKE = [
    "name=smoke", "garments.root=data/garments-smoke", "data.root=data/garments-smoke/fashioniq",
    "data.also_evaluate=[{layout: cirr, root: data/garments-smoke/cirr}]",
    "garments.train=600", "garments.val=150", "garments.gallery=150", "garments.cirr_train=160", "garments.cirr_val=60",
    "garments.family=30", "iacma.epochs=1", "atf.epochs=1", "clip4cir.epochs=1", "combiner.epochs=2",
    "pic2word.epochs=1",
]  # fmt: skip


def pytest_collectstart(collector):
    """Leaves out of the comparison what a library writes to stderr (only notebook collectors have the setting)."""
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += ("stderr",)


def pytest_itemcollected(item):
    """Puts the small run into the cell of the parameters, as papermill would; the file stays as it is.

    The tour has a small world of its own.
    """
    cell = getattr(item, "cell", None)
    if cell is not None and item.path.stem != "00_tour" and "parameters" in cell.metadata.get("tags", []):
        cell.source += f"\noverrides = {SMOKE}"
