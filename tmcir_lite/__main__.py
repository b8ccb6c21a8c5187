"""The command line: `python -m tmcir_lite run --config lite`, or one stage at a time."""

import argparse
import errno
import os
import sys
from pathlib import Path
from typing import NoReturn

from tmcir_lite.io.files import ROOT, InputError

STAGES = {
    "data": ("run.data.prepare_data", "draw the world if the profile has one; load and check the dataset"),
    "pseudo-targets": ("run.stages.make_pseudo_targets", "draw the pseudo-target images"),
    "iacma": ("run.stages.train_iacma", "stage 1: align the encoders"),
    "atf": ("run.stages.train_atf", "stage 2: train the token fusion"),
    "control": ("run.stages.train_control", "stage 2 again with merging off, for comparison"),
    "sum": ("run.stages.train_sum", "stage 2 again with a mere sum for the fusion, for comparison"),
    "clip4cir": ("run.stages.train_clip4cir", "the rival CLIP4Cir, both of its stages"),
    "pic2word": ("run.stages.train_pic2word", "the rival Pic2Word"),
    "evaluate": ("run.measure.evaluate", "measure every method on val"),
    "submit": ("run.measure.submit", "write the rankings of CIRR's test1 split for its server"),
}


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; returns its exit status: 0, 1 (a notebook failed), 2 (bad input) or 130 (interrupted)."""
    options = _parser().parse_args(arguments)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal or a log that has no ± is no reason to stop
    try:
        return _COMMANDS.get(options.command, _stage)(options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # of what other libraries write; our own files say it by themselves (`files.atomic`)
        if error.errno not in _DISK:
            raise
        print(f"error: {error.filename or 'the disk'}: {error.strerror}; make room or give another place, "
              "and run the same command again", file=sys.stderr)  # fmt: skip
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command (for `run`: with --resume) goes on", file=sys.stderr)
        return 130


_DISK = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EROFS, errno.EACCES, errno.EPERM)


def _here(text: str) -> Path:
    """An option's path starts at the folder one is in; one in a profile (`files.resolve`) at the repository's root."""
    return Path(text).expanduser().absolute()


def _profile(text: str) -> str:
    return str(_here(text)) if text.endswith((".yaml", ".yml")) else text


class _Parser(argparse.ArgumentParser):
    """Bad options are one line, as all bad input is."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {' '.join(message.split())}; {self.prog} --help shows what there is\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m tmcir_lite", description="TMCIR, lite and at paper scale.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    run = commands.add_parser("run", help="all six notebooks in order, then a report")
    run.add_argument("--resume", action="store_true", help="go on with a run of this name")
    rehearse = commands.add_parser("rehearse", help="everything at real size on stand-ins: memory, rates, hours")
    study = commands.add_parser("study", help="methods, ablations and sweeps (study/plan.yaml), several seeds")
    stages = {name: commands.add_parser(name, help=text) for name, (_, text) in STAGES.items()}
    stages["data"].add_argument("action", nargs="?", choices=["check"], help="check: report what is missing, and stop")
    config = commands.add_parser("config", help="print every key of a profile, its defaults too, and what it means")
    for command in (run, rehearse, study, config, *stages.values()):
        command.add_argument("--config", type=_profile, default="lite", help="a name in notebooks/params or .yaml file")
        command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one key")
    search = commands.add_parser("search", help="a picture and words against a folder of pictures")
    search.add_argument("--run", type=_here, required=True, metavar="FOLDER", help="a finished run, such as runs/lite")
    search.add_argument("--image", type=_here, required=True, help="the reference image")
    search.add_argument("--text", required=True, help="what to change, such as 'is red with longer sleeves'")
    search.add_argument("--gallery", type=_here, help="a folder of pictures (default: the run's val gallery)")
    search.add_argument("--top", type=int, default=10, help="how many to show (default: 10)")
    search.add_argument("--out", default="search.png", help="the picture to write (default: search.png)")
    circo = commands.add_parser(
        "circo", help="mAP on CIRCO's val split by the relative caption alone, and its server's file"
    )
    circo.add_argument("--run", type=_here, required=True, metavar="FOLDER", help="a finished run, such as runs/cirr")
    default = ROOT / "data" / "circo"
    circo.add_argument("--root", type=_here, default=default, help="CIRCO's folder (default: %(default)s)")
    study.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="(default: 0 1 2 3 4)")
    study.add_argument("--parts", nargs="+", default=[], help="parts of the plan (default: all)")
    default = ROOT / "data" / "results"
    study.add_argument("--out", type=_here, default=default, help="where the tables go (default: %(default)s)")
    default = Path(__file__).parent / "study" / "plan.yaml"
    study.add_argument("--plan", type=_here, default=default, help="what is compared (default: %(default)s)")
    commands.add_parser("notebooks", help="execute the committed notebooks in place; keep results and models in data")
    commands.add_parser("bench", help="what the library's own work costs; writes data/results/bench.md")
    paths = f"Relative paths given to options start at the folder you are in, those in a profile or --set at {ROOT}."
    for command in (parser, *commands.choices.values()):
        command.epilog = paths
    return parser


def _run(options: argparse.Namespace) -> int:
    from tmcir_lite.config import load_config
    from tmcir_lite.run import notebooks

    try:
        report = notebooks.run(options.config, options.set, options.resume)
    except notebooks.StageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    table = load_config(options.config, options.set).run_dir / "evaluation" / "results.md"
    if table.is_file():
        print(f"\n{table.read_text(encoding='utf-8')}")
    print(f"report: {report}")
    return 0


def _config(options: argparse.Namespace) -> int:
    from tmcir_lite.config import explained, load_config

    print(explained(load_config(options.config, options.set)))
    return 0


def _refresh(options: argparse.Namespace) -> int:
    from tmcir_lite.config import load_config
    from tmcir_lite.course.shipped import keep_models
    from tmcir_lite.run import notebooks

    try:
        notebooks.refresh()
        run = load_config("lite").run_dir
        notebooks.keep_results(run)
        keep_models(run)
        notebooks.refresh(names=[notebooks.TOUR])  # it shows the models just kept
    except notebooks.StageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _bench(options: argparse.Namespace) -> int:
    from tmcir_lite.scale.bench import TABLE, bench

    bench()
    print(f"table: {TABLE}")
    return 0


def _rehearse(options: argparse.Namespace) -> int:
    from tmcir_lite.config import load_config
    from tmcir_lite.scale.rehearsal import rehearse

    report, filled = rehearse(load_config(options.config, options.set))
    print(f"\n{report}\nprofile with what fits: {filled}")
    return 0


def _search(options: argparse.Namespace) -> int:
    from tmcir_lite.io.files import atomic
    from tmcir_lite.scale.search import SHOWN, check_out, search, show

    out = check_out(options.out)
    found = search(options.run, options.image, options.text, options.gallery, options.top)
    for number, (path, cosine) in enumerate(found, 1):
        print(f"{number:3}  {cosine:.3f}  {path}")
    with atomic(out) as temporary:
        show(options.image, options.text, found).savefig(temporary, dpi=120)
    print(f"as a picture{f', the first {SHOWN}' if len(found) > SHOWN else ''}: {out}")
    return 0


def _circo(options: argparse.Namespace) -> int:
    from tmcir_lite.evaluation.circo import load_circo, mean_average_precision, rank, write_submission
    from tmcir_lite.io.files import write_json
    from tmcir_lite.run.models import load_trained
    from tmcir_lite.scale.search import finished_run

    cfg = finished_run(options.run)
    model, folder = load_trained(cfg), cfg.run_dir / "evaluation" / "circo"
    val, test = load_circo(options.root, "val"), load_circo(options.root, "test")
    scores = mean_average_precision(rank(model, val, folder), val.targets)
    write_json(folder / "val.json", scores)
    write_submission(test, rank(model, test, folder), folder / "submission.json")
    shown = ", ".join(f"{name} {value:.2f}" for name, value in scores.items())
    print(f"val, {len(val.triplets)} queries, the relative caption alone: {shown}")
    print(f"for the server: {folder / 'submission.json'}")
    return 0


def _study(options: argparse.Namespace) -> int:
    from tmcir_lite.config import load_config
    from tmcir_lite.study.run import run_study

    for seed in options.seeds:  # a bad one is found before the first is run
        load_config(options.config, [*options.set, f"seed={seed}"])
    run_study(options.config, options.set, options.seeds, options.parts, options.out, options.plan)
    return 0


def _stage(options: argparse.Namespace) -> int:
    from importlib import import_module

    from tmcir_lite.config import load_config
    from tmcir_lite.data.check import check_data

    cfg = load_config(options.config, options.set)
    if getattr(options, "action", None) == "check":
        report, usable = check_data(cfg)
        print(report)
        return 0 if usable else 2
    module, function = STAGES[options.command][0].rsplit(".", 1)
    getattr(import_module(f"tmcir_lite.{module}"), function)(cfg)
    return 0


_COMMANDS = {
    "run": _run,
    "config": _config,
    "notebooks": _refresh,
    "bench": _bench,
    "rehearse": _rehearse,
    "search": _search,
    "circo": _circo,
    "study": _study,
}

if __name__ == "__main__":
    # Commands draw into files, also where the shell names a backend that needs a screen.
    os.environ["MPLBACKEND"] = "agg"
    sys.exit(main())
