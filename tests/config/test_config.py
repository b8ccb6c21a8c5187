"""Bad configuration stops before anything runs, with a line that says what to change."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tmcir_lite.__main__ import main
from tmcir_lite.config import EDITORS, PROFILES, as_overrides, load_config, profile_names
from tmcir_lite.io.files import ROOT, InputError
from tmcir_lite.io.processes import pick_device
from tmcir_lite.run import folder as run_folder
from tmcir_lite.run.folder import start_run


def lite(**changes):
    """The whole lite configuration as plain values, top-level keys replaced by `changes`."""
    return load_config("lite").model_dump() | changes


def profile(folder, values):
    path = folder / "mine.yaml"
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values))
    return path


def message(*arguments):
    with pytest.raises(InputError) as caught:
        load_config(*arguments)
    return str(caught.value)


def flat(values, prefix=""):
    found = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


@pytest.mark.parametrize("name", profile_names())
def test_every_shipped_profile_loads_and_loses_nothing(name):
    values = yaml.safe_load((PROFILES / f"{name}.yaml").read_text())
    if isinstance(values["editor"], str):
        values["editor"] = yaml.safe_load(EDITORS.read_text())[values["editor"]]
    assert flat(values).items() <= flat(load_config(name).model_dump()).items()
    assert len(flat(values)) <= 45  # what is the same everywhere has a default


@pytest.mark.parametrize("name", profile_names())
def test_the_whole_configuration_is_printed_and_explained(name, tmp_path, capsys):
    assert main(["config", "--config", name, "--set", "seed=3"]) == 0
    said = capsys.readouterr().out
    assert load_config(profile(tmp_path, said)) == load_config(name, ["seed=3"])
    assert "gradient_checkpointing: false  # saves memory" in said


@pytest.mark.parametrize("name", yaml.safe_load(EDITORS.read_text()))
def test_an_editor_is_taken_by_name_and_then_changed_by_key(name):
    editor = load_config("lite", ["editor.steps=9", f"editor={name}", "editor.guidance=3"]).editor
    section = yaml.safe_load(EDITORS.read_text())[name] | {"guidance": 3.0}
    assert section.items() <= editor.model_dump().items()
    assert editor.strength == section.get("strength")  # and not the lite editor's: the section is taken whole


def test_text_in_quotes_is_text():
    assert load_config("lite", ['name="2024-01-01"']).name == "2024-01-01"


def test_an_unknown_editor_lists_the_known_ones():
    said = message("lite", ["editor=sd4"])
    assert "override 'editor=sd4'" in said
    assert "sd3, instruct-pix2pix" in said
    assert "unknown; known:" in message("editors")


def test_a_profile_is_a_name_or_a_path(tmp_path):
    assert load_config(profile(tmp_path, lite(name="other"))).name == "other"
    assert load_config("notebooks/params/lite.yaml") == load_config("lite")


def test_overrides_win_the_last_one_too():
    cfg = load_config("lite", ["iacma.epochs=2", "iacma.epochs=5", "data.categories=[dress]", "garments=null"])
    assert (cfg.iacma.epochs, cfg.data.categories, cfg.garments) == (5, ["dress"], None)


def test_an_int_may_stand_for_a_float():
    assert load_config("lite", ["iacma.weight_decay=1"]).iacma.weight_decay == 1.0


def test_a_loaded_configuration_does_not_change():
    with pytest.raises(ValueError, match="frozen"):
        load_config("lite").iacma.epochs = 2


def test_run_dir_does_not_depend_on_the_callers_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config("lite").run_dir == ROOT / "runs" / "lite"


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("", []),
        (None, []),
        ("name=x", ["name=x"]),
        (" seed=1, name=x\natf.lr=1.0", ["seed=1", "name=x", "atf.lr=1.0"]),
        ("runs=/my runs/a, b", ["runs=/my runs/a, b"]),
        ("data.categories=[dress, shirt] seed=1", ["data.categories=[dress, shirt]", "seed=1"]),
        ("data.also_evaluate=[{layout: cirr, root: x}]", ["data.also_evaluate=[{layout: cirr, root: x}]"]),
        ('["seed=1", "name=x"]', ["seed=1", "name=x"]),
        ("[name=x]", ["name=x"]),
        (("seed=1",), ["seed=1"]),
    ],
)
def test_overrides_may_come_as_a_string_or_not_at_all(given, taken):
    assert as_overrides(given) == taken
    if "categories" not in str(given):
        load_config("lite", given)


@pytest.mark.parametrize("given", [3, {"seed": 1}, [None], [{"seed": 1}], True, "[seed: 1]"])
def test_other_overrides_are_one_line(given):
    said = message("lite", given)
    assert said.startswith("overrides: ")
    assert "\n" not in said
    assert "expected" in message(None)


@pytest.mark.parametrize("root", ["/a#b", "/a #b", "#b", "/a b # c", "'/a #b'"])
def test_a_number_sign_is_part_of_a_value(root):
    assert load_config("lite", [f"data.root={root}"]).data.root == root.strip("'")


@pytest.mark.parametrize("value", ["2024-99-99", "[" * 3000], ids=["no date", "brackets"])
def test_what_yaml_itself_stumbles_over_is_one_line(value, tmp_path):
    assert "is not a YAML value" in message("lite", [f"name={value}"])
    (tmp_path / "odd.yaml").write_text(f"name: {value}\n")
    assert "odd.yaml" in message(str(tmp_path / "odd.yaml"))


@pytest.mark.parametrize("layouts", [["fashioniq"], ["cirr", "cirr"]])
def test_datasets_of_one_layout_are_not_mixed_in_one_table(layouts):
    others = ", ".join(f"{{layout: {layout}, root: x}}" for layout in layouts)
    assert "data.also_evaluate: layouts fashioniq" in message("lite", [f"data.also_evaluate=[{others}]"])


def test_unknown_profile_lists_the_known_ones():
    assert re.search("'light': unknown; known: .*lite", message("light"))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("iacma.epoch=2", ["iacma.epoch", "unknown key", "did you mean iacma.epochs"]),
        ("iacma.nonsense=2", ["iacma.nonsense", "known: epochs, batch"]),
        ("garments.sed=2", ["garments.sed", "did you mean garments.seed"]),
        ("nonsense.deep=2", ["nonsense", "unknown key"]),
        ("data.also_evaluate=[{layout: cirr, root: x, roots: y}]", ["data.also_evaluate.0.roots", "root?"]),
        ("iacma.lr=1e-5", ["iacma.lr", "'1e-5'", "write 1.0e-5"]),
        ("iacma.lr='2.5e3'", ["write 2.5e+3"]),
        ("iacma.lr=fast", ["iacma.lr", "'fast' (str)", "number"]),
        ("iacma.lr=.nan", ["iacma.lr", "finite"]),
        ("iacma.epochs=2.0", ["iacma.epochs", "2.0 (float)", "integer"]),
        ("iacma.epochs=true", ["iacma.epochs", "True (bool)", "integer"]),
        ("iacma.epochs=-1", ["iacma.epochs", "-1", "greater than or equal to 0"]),
        ("iacma.batch=1", ["iacma.batch", "greater than or equal to 2"]),
        ("data.heldout=1.5", ["data.heldout", "less than 1"]),
        ("data.skip_missing=1", ["data.skip_missing", "1 (int)", "boolean"]),
        ("data.categories=dress", ["data.categories", "'dress' (str)", "list"]),
        ("atf.encoders=all", ["atf.encoders", "'all'", "'both', 'image', 'text' or 'none'"]),
        ("atf.threshold=-0.1", ["atf.threshold", "-0.1 is no quantile"]),
        ("name=../elsewhere", ["name", "'../elsewhere'", "letters"]),
        ("garments=3", ["garments", "3", "section"]),
        ("seed=null", ["seed", "None", "integer"]),
        ("seed=2147483648", ["seed", "2147483648", "less than or equal to 2147483647"]),
        ("name=2024-01-01", ["2024-01-01 is a date to YAML", """write it in quotes of its own, '"2024-01-01"'"""]),
        ("name.x=1", ["name is 'lite'", "not a section"]),
        ("seed", ["section.key=value"]),
        (".seed=1", ["section.key=value"]),
        ("seed=[1", ["'[1'", "not a YAML value"]),
    ],
)
def test_a_bad_override_is_one_line_that_names_it(override, words):
    said = message("lite", [override])
    assert repr(override) in said
    assert "\n" not in said
    for word in words:
        assert word in said


def test_several_problems_are_several_lines(tmp_path):
    values = lite(seed="zero")
    del values["editor"]["steps"]
    path = profile(tmp_path, values)
    lines = message(path, ["iacma.epochs=none"]).splitlines()
    assert len(lines) == 3
    assert any(line.startswith(f"{path}: editor.steps: missing") for line in lines)
    assert any(line.startswith(f"{path}: seed: 'zero' (str)") for line in lines)
    assert any(line.startswith("override 'iacma.epochs=none': iacma.epochs: 'none' (str)") for line in lines)


@given(st.floats(min_value=1e-30, max_value=1e30, allow_nan=False))
def test_the_number_it_says_to_write_is_the_number_meant(number):
    said = message("lite", [f"iacma.lr='{number!r}'"])
    assert yaml.safe_load(said.rpartition("write ")[2]) == number


def test_start_run_writes_what_a_result_has_to_name(tmp_path):
    cfg = load_config("lite", [f"runs={tmp_path}", "device=cpu", "seed=7"])
    folder = start_run(cfg)
    assert folder == tmp_path / "lite"
    assert load_config(folder / "config.yaml") == cfg
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["packages"].keys() == set(run_folder.PACKAGES)
    assert environment["packages"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert (environment["device"], environment["seed"]) == ("cpu", 7)
    assert environment.keys() >= {"python", "platform", "cpu_count", "commit", "dirty", "time"}


def test_a_run_goes_on_with_the_same_configuration_only(tmp_path):
    runs = f"runs={tmp_path}"
    start_run(load_config("lite", [runs, "iacma.epochs=3"]))
    start_run(load_config("lite", [runs, "iacma.epochs=3"]))
    with pytest.raises(InputError, match=r"iacma.epochs \(3 there, 9 now\); choose another name= or remove") as caught:
        start_run(load_config("lite", [runs, "iacma.epochs=9"]))
    assert "atf" not in str(caught.value)
    assert load_config(tmp_path / "lite" / "config.yaml").iacma.epochs == 3
    start_run(load_config("lite", [runs, "iacma.epochs=9", "name=longer"]))


HARMLESS = [
    "editor.batch=7", "data.workers=2", "data.cache=cache", "device=cpu", "iacma.chunk=8", "atf.chunk=8",
    "clip4cir.chunk=8", "combiner.chunk=8", "pic2word.chunk=8", "garments.root=elsewhere",
    "backbone.gradient_checkpointing=true", f"data.root={ROOT}/data/garments/fashioniq",
    "data.also_evaluate=[{layout: cirr, root: elsewhere}]", f"backbone.name=local-dir:{ROOT}/data/models/clip",
    f"editor.model={ROOT}/data/models/editor",
]  # fmt: skip


@pytest.mark.parametrize("change", HARMLESS)
def test_a_run_goes_on_with_keys_that_change_no_result_and_records_them(change, tmp_path):
    start_run(load_config("lite", [f"runs={tmp_path}"]))
    folder = start_run(load_config("lite", [f"runs={tmp_path}", change]))
    key, _, value = change.partition("=")
    recorded = json.loads((folder / "environment.json").read_text())["unlike config.yaml"]
    (name,) = recorded
    assert name.startswith(key)
    assert value.strip("[]}").rpartition(" ")[2] in recorded[name] or value == "true"
    kept = yaml.safe_load((folder / "config.yaml").read_text())
    assert kept == lite(runs=str(tmp_path))


def test_a_run_goes_on_where_it_was_moved_to(tmp_path):
    start_run(load_config("lite", [f"runs={tmp_path}"]))
    (tmp_path / "other").mkdir()
    (tmp_path / "lite").rename(tmp_path / "other" / "renamed")
    start_run(load_config("lite", [f"runs={tmp_path}/other", "name=renamed"]))


def test_a_dataset_may_move_but_not_change(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    (here / "captions").mkdir(parents=True)
    (here / "captions" / "cap.dress.train.json").write_text("[1]")
    changes = [f"runs={tmp_path}", "data.also_evaluate=[]"]
    start_run(load_config("lite", [*changes, f"data.root={here}"]))
    here.rename(there)
    start_run(load_config("lite", [*changes, f"data.root={there}"]))
    (here / "captions").mkdir(parents=True)
    (here / "captions" / "cap.dress.train.json").write_text("[2]")
    with pytest.raises(InputError, match="data.root now holds something else than when this run was started"):
        start_run(load_config("lite", [*changes, f"data.root={here}"]))


def test_a_model_may_move_but_not_change(tmp_path, clip_folder):
    runs, moved = f"runs={tmp_path}/runs", tmp_path / "moved"
    start_run(load_config("lite", [runs]))
    shutil.copytree(ROOT / "data" / "models" / "clip", moved)
    start_run(load_config("lite", [runs, f"backbone.name=local-dir:{moved}"]))
    for other in (f"local-dir:{clip_folder}", "ViT-B-32"):
        with pytest.raises(InputError, match="backbone.name"):
            start_run(load_config("lite", [runs, f"backbone.name={other}"]))


@pytest.mark.parametrize(
    "change", ["data.also_evaluate=[]", "data.edits_together=2", "evaluation.choose_at=5", "editor.limit=9", "seed=1"]
)
def test_keys_that_do_change_results_are_refused(change, tmp_path):
    start_run(load_config("lite", [f"runs={tmp_path}"]))
    with pytest.raises(InputError, match=change.partition("=")[0]):
        start_run(load_config("lite", [f"runs={tmp_path}", change]))


def test_git_is_read_whatever_the_locale(tmp_path):
    """A checkout under a name beyond ASCII, read by a Python that knows ASCII only."""
    root = tmp_path / "caf\xe9"
    subprocess.run(["git", "init", "--quiet", str(root)], check=True)
    git = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "--message", "first"], check=True)
    code = f"""
import os, pathlib, tmcir_lite.io.files
tmcir_lite.io.files.ROOT = pathlib.Path(os.fsdecode({os.fsencode(root)!r}))
from tmcir_lite.run import folder
print(folder.git_state()[0])
"""
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    settings = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": paths}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LC_")} | settings
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert len(done.stdout.strip()) == 40


def test_outside_a_git_checkout_the_commit_is_null(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "ROOT", tmp_path)
    environment = run_folder.environment(load_config("lite", ["device=cpu"]))
    assert (environment["commit"], environment["dirty"]) == (None, None)


def test_pick_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_device("auto") == pick_device("cpu") == torch.device("cpu")
    with pytest.raises(InputError, match="cuda.*write auto or cpu"):
        pick_device("cuda")
    with pytest.raises(InputError, match="'tpu'"):
        pick_device("tpu")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device("auto") == torch.device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto") == torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setenv("LOCAL_RANK", "3")  # left over in a shell
    assert pick_device("auto") == torch.device("cuda")
    for name, value in {
        "RANK": "7",
        "WORLD_SIZE": "8",
        "MASTER_ADDR": "a",
        "MASTER_PORT": "1",
    }.items():  # as set by `accelerate launch`
        monkeypatch.setenv(name, value)
    assert pick_device("auto") == torch.device("cuda", 3)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)  # each process may see only its own
    assert pick_device("auto") == torch.device("cuda", 0)
