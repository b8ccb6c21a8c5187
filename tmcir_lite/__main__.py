"""The command line: `python -m tmcir_lite run --config lite`, or one stage at a time."""

import argparse
import sys

from tmcir_lite.files import InputError

STAGES = {
    "data": ("prepare_data", "draw the garment world if the profile has one; load and check the dataset"),
    "pseudo-targets": ("make_pseudo_targets", "draw the pseudo-target images"),
    "iacma": ("train_iacma", "stage 1: align the encoders"),
    "atf": ("train_atf", "stage 2: train the token fusion"),
    "control": ("train_control", "stage 2 again with merging off, for comparison"),
    "evaluate": ("evaluate", "measure every method on val"),
    "submit": ("submit", "write the rankings of CIRR's test1 split for its server"),
}


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; returns its exit status: 0, 1 (a notebook failed), 2 (bad input) or 130 (interrupted)."""
    options = _parser().parse_args(arguments)
    try:
        return _COMMANDS.get(options.command, _stage)(options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command (for `run`: with --resume) goes on", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tmcir_lite", description="TMCIR, lite and at paper scale.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    run = commands.add_parser("run", help="all five notebooks in order, then a report")
    run.add_argument("--resume", action="store_true", help="go on with a run of this name")
    stages = [commands.add_parser(name, help=text) for name, (_, text) in STAGES.items()]
    for command in (run, *stages):
        command.add_argument("--config", default="lite", help="a profile in notebooks/params, or a .yaml file")
        command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one key")
    compare = commands.add_parser("compare", help="the results of several runs side by side")
    compare.add_argument("runs", nargs="+", metavar="FOLDER", help="such as runs/lite runs/seed1")
    compare.add_argument("--measure", default="R@1", help="a column of results.csv (default: R@1)")
    commands.add_parser("notebooks", help="execute the committed notebooks in place; keep the results in data/results")
    return parser


def _run(options: argparse.Namespace) -> int:
    from tmcir_lite import pipeline
    from tmcir_lite.config import load_config

    try:
        report = pipeline.run(options.config, options.set, options.resume)
    except pipeline.StageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    table = load_config(options.config, options.set).run_dir / "evaluation" / "results.md"
    if table.is_file():
        print(f"\n{table.read_text()}")
    print(f"report: {report}")
    return 0


def _refresh(options: argparse.Namespace) -> int:
    from tmcir_lite import pipeline
    from tmcir_lite.config import load_config

    try:
        pipeline.refresh()
        pipeline.keep_results(load_config("lite").run_dir)
    except pipeline.StageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _compare(options: argparse.Namespace) -> int:
    from tmcir_lite.comparison import compare
    from tmcir_lite.files import resolve

    print(compare([resolve(folder) for folder in options.runs], options.measure))
    return 0


def _stage(options: argparse.Namespace) -> int:
    from tmcir_lite import stages
    from tmcir_lite.config import load_config

    getattr(stages, STAGES[options.command][0])(load_config(options.config, options.set))
    return 0


_COMMANDS = {"run": _run, "notebooks": _refresh, "compare": _compare}

if __name__ == "__main__":
    sys.exit(main())
