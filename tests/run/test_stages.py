"""The whole chain on a tiny world with untrained models (`cfg`): what a user's run leaves behind."""

import json
import shutil

import pandas as pd
import pytest
import torch
from torch import nn

from tmcir_lite.__main__ import main
from tmcir_lite.config import EvaluationSet, load_config
from tmcir_lite.evaluation.features import encode_captions, encode_images, encode_queries, joined
from tmcir_lite.evaluation.results import intent_table
from tmcir_lite.io.files import InputError
from tmcir_lite.method.checkpoint import load_weights
from tmcir_lite.method.iacma import Iacma
from tmcir_lite.method.model import Composed
from tmcir_lite.rivals.clip4cir import PooledSum
from tmcir_lite.rivals.sums import weighted_sum
from tmcir_lite.run import measure, models, stages
from tmcir_lite.run.backbones import load_backbone
from tmcir_lite.run.data import prepare_data
from tmcir_lite.run.models import (
    load_aligned,
    load_cached,
    load_clip4cir,
    load_fusion,
    load_start,
    load_trained,
    plain_sum,
    token_fusion,
    without_merging,
)
from tmcir_lite.study.variants import FUSIONS, WordsToo

RECALLS = ["R@1", "R@5", "R@10", "R@50"]


def test_a_run_leaves_everything_in_one_folder(cfg):
    expected = [
        "config.yaml", "environment.json", "pseudo_targets/manifest.jsonl", "iacma/model/open_clip_model.safetensors",
        "iacma/history.csv", "iacma/metrics.json", "atf/model/fusion.safetensors", "atf/history.csv",
        "evaluation/results.csv", "evaluation/results.md",
    ]  # fmt: skip
    assert [name for name in expected if not (cfg.run_dir / name).is_file()] == []


def test_results_name_method_protocol_and_origin(cfg):
    results = pd.read_csv(cfg.run_dir / "evaluation" / "results.csv")
    assert {"original", "original-masked", "val-union", "cirr"} == set(results["protocol"])
    assert results[["seed", "device", "queries", "gallery"]].notna().all(axis=None)
    assert results[RECALLS].apply(lambda column: column.between(0, 100)).all(axis=None)
    assert results["method"].nunique() == 12
    assert results.query("protocol == 'cirr'")["Rs@1"].notna().all()
    text = (cfg.run_dir / "evaluation" / "results.md").read_text()
    assert "seed 0" in text
    assert "protocol val-union" in text


def test_image_only_with_the_reference_kept_never_finds_the_target_first(cfg):
    results = pd.read_csv(cfg.run_dir / "evaluation" / "results.csv")
    row = results.query("method == 'image only' and protocol == 'original' and category == 'mean'")
    assert row["R@1"].item() == 0  # the reference itself is always nearer


def test_the_control_is_the_same_module_with_nothing_merged(cfg):
    control = load_fusion(cfg, "control", without_merging(cfg))
    model = load_trained(cfg)
    assert {n: p.shape for n, p in control.named_parameters()} == {n: p.shape for n, p in model.named_parameters()}
    backbone = control.backbone
    ids, images = backbone.tokenize(["is red", "is much longer"]), torch.zeros(2, 3, 64, 64)
    patches, (_, words, mask) = backbone.image(images).tokens, backbone.text(ids)
    assert model.fusion.fuse(patches, words, mask).match.merged.any()
    assert not control.fusion.fuse(patches, words, mask).match.merged.any()


def test_the_fine_tuned_sum_is_a_sum_of_what_its_encoders_say(cfg):
    model = load_fusion(cfg, "sum", plain_sum(cfg))
    backbone, share = model.backbone, model.fusion.text_logit.sigmoid().item()
    ids, images = backbone.tokenize(["is red", "is much longer"]), torch.rand(2, 3, 64, 64)
    v, t = backbone.image(images).pooled, backbone.text(ids).pooled
    torch.testing.assert_close(model.query(images, ids), weighted_sum(share)(v, t))


@pytest.mark.parametrize("fusion", ["ATF", "cross-attention", "sum", "concatenation", "TIRG", "FiLM"])
@pytest.mark.parametrize("encoders", ["both", "text"])
def test_every_weight_that_is_trained_gets_a_gradient(cfg, fusion, encoders):
    """Several processes wait for each other's gradient of every one."""
    paths = [*prepare_data(cfg).train.images.values()]
    cfg = cfg.model_copy(update={"atf": cfg.atf.model_copy(update={"encoders": encoders})})
    backbone = stages._unlocked(cfg, encoders, aligned=True)
    model = Composed(backbone, FUSIONS[fusion](cfg)(backbone))
    ids = backbone.tokenize(["is red", "is much longer"])
    references, targets = backbone.load(paths[:2]), backbone.load(paths[2:4])
    model.loss(*model(references=references, texts=ids, targets=targets)).backward()
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    assert [name for name, weight in trained.items() if weight.grad is None] == []
    assert any(".visual." in name for name in trained) == (encoders == "both")


class MyFusion(nn.Module):
    """A fusion of a user's own: a gate for each dimension decides between image and text."""

    def __init__(self, encoders):
        super().__init__()
        self.gate = nn.Linear(2 * encoders.dim, encoders.dim)

    def forward(self, image, text):
        gate = self.gate(torch.cat([image.pooled, text.pooled], dim=1)).sigmoid()
        return torch.nn.functional.normalize(gate * text.pooled + (1 - gate) * image.pooled, dim=1)


def test_a_fusion_of_ones_own_is_one_class_given_to_one_call(cfg, tiny):
    run = load_config("lite", [*tiny, "name=own"])
    shutil.copytree(cfg.run_dir, run.run_dir)
    (run.run_dir / "config.yaml").write_text(
        (cfg.run_dir / "config.yaml").read_text().replace("name: tiny", "name: own")
    )
    before = measure.evaluate(run)
    assert len(stages.train_fusion(run, "my gate", MyFusion)) == 3
    table = measure.evaluate(run, {"my gate": MyFusion})
    pd.testing.assert_frame_equal(table[table["method"] != "my gate"], before, check_dtype=False)
    assert len(table.query("method == 'my gate'")) == len(table.query("method == 'TMCIR'"))
    assert "| my gate" in (run.run_dir / "evaluation" / "results.md").read_text()
    pd.testing.assert_frame_equal(measure.evaluate(run, {"my gate": MyFusion}), measure.evaluate(run))
    for name in ("atf", "TMCIR", "combiner"):
        with pytest.raises(InputError, match=f"fusions: '{name}' is a name of the run's own"):
            measure.evaluate(run, {name: MyFusion})
    with pytest.raises(InputError, match="fusions: 'other': not trained; stages.train_fusion"):
        measure.evaluate(run, {"other": MyFusion})


def test_where_nothing_merges_the_control_is_stage_2_itself(cfg, tiny):
    run = load_config("lite", [*tiny, "name=unmerged", "atf.threshold=2.0", "atf.epochs=1"])
    for part in ("iacma", "sum", "clip4cir", "combiner", "pic2word"):
        shutil.copytree(cfg.run_dir / part, run.run_dir / part)
    pd.testing.assert_frame_equal(stages.train_control(run), stages.train_atf(run))
    assert not (run.run_dir / "control").exists()
    assert {"TMCIR", "TMCIR, merging off"} & set(measure.evaluate(run)["method"]) == {"TMCIR"}


def test_stages_that_are_complete_are_not_run_again(cfg, monkeypatch):
    monkeypatch.setattr(models, "load_backbone", lambda *a, **k: pytest.fail("a model was loaded again"))
    monkeypatch.setattr(stages, "load_editor", lambda *a: pytest.fail("an editor was loaded again"))
    assert len(stages.make_pseudo_targets(cfg)) == 60
    assert len(stages.train_iacma(cfg)) == 2
    assert len(stages.train_atf(cfg)) == 3
    assert len(stages.train_control(cfg)) == 3
    assert len(stages.train_sum(cfg)) == 3
    assert len(stages.train_clip4cir(cfg)) == 2
    assert len(stages.train_pic2word(cfg)) == 2
    measure.evaluate(cfg)


def test_held_out_triplets_share_no_picture_with_the_rest(cfg):
    data = prepare_data(cfg)
    names = [{name for t in part for name in (t.reference_name, t.target_name)} for part in (data.kept, data.held)]
    assert data.held
    assert not names[0] & names[1]


def test_a_further_dataset_that_is_broken_is_found_before_training(cfg, tiny, tmp_path):
    place = cfg.data.also_evaluate[0]
    shutil.copytree(place.root, tmp_path / "cirr")
    captions = tmp_path / "cirr" / "captions" / "cap.rc2.val.json"
    captions.write_text(captions.read_text().replace('"reference"', '"candidate"', 1))
    changed = f"data.also_evaluate=[{{layout: cirr, root: {tmp_path}/cirr}}]"
    with pytest.raises(InputError, match="record 0: no key 'reference'"):
        prepare_data(load_config("lite", [*tiny, changed, "name=broken"]))


def test_iacma_without_pseudo_targets_says_what_to_run(tiny):
    cfg = load_config("lite", [*tiny, "name=skipped"])
    with pytest.raises(InputError, match="run `pseudo-targets` first"):
        stages.train_iacma(cfg)


def test_another_configuration_under_the_same_name_is_refused(cfg, tiny):
    with pytest.raises(InputError, match="iacma.lr"):
        prepare_data(load_config("lite", [*tiny, "iacma.lr=0.5"]))


@pytest.mark.parametrize("stage", ["iacma", "atf", "control", "sum", "clip4cir", "pic2word", "evaluate"])
def test_a_finished_stage_is_not_taken_for_one_of_another_configuration(cfg, tiny, capsys, stage):
    options = [option for change in (*tiny, "seed=1") for option in ("--set", change)]
    assert main([stage, *options]) == 2
    assert "seed (0 there, 1 now)" in capsys.readouterr().err


def test_submit_writes_what_cirrs_server_takes(cfg, tmp_path):
    world = cfg.data.also_evaluate[0].root
    test1 = tmp_path / "cirr"
    shutil.copytree(world, test1)
    for name in ("captions/cap", "image_splits/split"):
        (test1 / f"{name}.rc2.val.json").rename(test1 / f"{name}.rc2.test1.json")
    here = [EvaluationSet(layout="cirr", root=str(test1))]
    other = cfg.model_copy(update={"data": cfg.data.model_copy(update={"also_evaluate": here})})
    paths = measure.submit(other)
    assert [path.name for path in paths] == ["recall.json", "recall_subset.json"]
    assert len(json.loads(paths[0].read_text())) == 22  # twenty queries, version and metric


def test_submit_without_cirr_says_so(cfg):
    none = cfg.model_copy(update={"data": cfg.data.model_copy(update={"also_evaluate": []})})
    with pytest.raises(InputError, match="nothing to submit"):
        measure.submit(none)


def test_both_orders_of_the_captions_can_be_averaged(cfg, monkeypatch):
    data, backbone = prepare_data(cfg), load_start(cfg)
    some = data.val.triplets[:3]
    one, other, both = (torch.nn.functional.normalize(encode_captions(backbone, some, how), dim=1)
                        for how in ("and", "reversed", "both"))  # fmt: skip
    torch.testing.assert_close(both, torch.nn.functional.normalize(one + other, dim=1))
    model = load_trained(cfg)
    one, other, both = (encode_queries(model, some, data.val.images, how)
                        for how in ("and", "reversed", "both"))  # fmt: skip
    torch.testing.assert_close(both, (one + other) / 2)
    assert joined(some, "both") == joined(some, "and")


def test_intent_is_measured_where_attributes_are_known(cfg):
    results = pd.read_csv(cfg.run_dir / "evaluation" / "results.csv")
    kept = intent_table(results, "fashioniq", "original")
    assert list(kept.loc["image only"]) == [0, 100, 100, 0]  # with the reference in the gallery it is the answer
    assert intent_table(results, "cirr", "cirr")["changed"].between(0, 100).all()
    assert intent_table(results.drop(columns="kept"), "fashioniq", "original") is None


def _changed(cfg, folder):
    """Which towers differ from those that stage 2 started from."""
    backbone = load_aligned(cfg)
    model = Composed(backbone, token_fusion(cfg)(backbone))
    load_weights(model, folder / "last.safetensors")
    return _differ(model.backbone, load_aligned(cfg))


def _differ(backbone, other):
    before = dict(other.clip.named_parameters())
    return {"image" if name.startswith("visual") else "text" for name, p in backbone.clip.named_parameters()
            if name != "logit_scale" and not torch.equal(p, before[name])}  # fmt: skip


@pytest.mark.parametrize("encoders", ["image", "text"])
def test_one_encoder_alone_can_be_trained_with_the_fusion(cfg, tiny, encoders):
    run = load_config("lite", [*tiny, f"name=only-{encoders}", f"atf.encoders={encoders}", "atf.epochs=1"])
    shutil.copytree(cfg.run_dir / "iacma", run.run_dir / "iacma")
    stages.train_atf(run)
    assert _changed(run, run.run_dir / "atf") == {encoders}


@pytest.mark.parametrize(
    ("encoders", "changed"), [("both", {"image", "text"}), ("image", {"image"}), ("text", {"text"})]
)
def test_clip4cir_trains_the_encoders_that_it_is_told_to(tiny, encoders, changed):
    run = load_config("lite", [*tiny, f"name=clip4cir-{encoders}", f"clip4cir.encoders={encoders}", "clip4cir.lr=0.1"])
    stages.train_clip4cir(run)
    split, folder = prepare_data(run).val, run.run_dir / "clip4cir"
    plain = load_start(run)
    load_weights(Composed(plain, PooledSum(), 100.0, learned=True), folder / "last.safetensors")
    assert _differ(plain, load_start(run)) == changed
    stage1, combined = load_clip4cir(run)
    assert stage1.backbone is combined.backbone
    read = load_backbone(f"local-dir:{folder / 'model'}")
    paths = [split.images[triplet.target_name] for triplet in split.triplets]
    torch.testing.assert_close(encode_images(combined.backbone, paths), encode_images(read, paths))
    queries = [encode_queries(model, split.triplets, split.images, "and")
               for model in (stage1, Composed(read, PooledSum()))]  # fmt: skip
    torch.testing.assert_close(*queries)


def test_a_fusion_can_be_trained_on_encoders_that_stay(cfg, tiny):
    run = load_config("lite", [*tiny, "name=frozen", "atf.encoders=none", "atf.epochs=1"])
    shutil.copytree(cfg.run_dir / "iacma", run.run_dir / "iacma")
    stages.train_atf(run)
    assert not (run.run_dir / "atf" / "model" / "open_clip_model.safetensors").exists()
    split = prepare_data(run).val
    models = load_trained(run), load_fusion(run, "atf", token_fusion(run), load_cached(run, aligned=True))
    one, other = (encode_queries(model, split.triplets, split.images, "and") for model in models)
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("cache", [None, "cache"])
def test_iacma_of_no_epochs_leaves_the_encoders_as_they_were(tiny, tmp_path, cache):
    changes = [f"runs={tmp_path}", "iacma.epochs=0", f"data.cache={tmp_path / cache if cache else 'null'}"]
    run = load_config("lite", [*tiny, *changes])
    assert stages.train_iacma(run)["epoch"].tolist() == [0]
    start, aligned = load_start(run), load_aligned(run)
    for one, other in zip(start.parameters(), aligned.parameters(), strict=True):
        assert torch.equal(one, other)


def test_words_and_patches_are_a_second_loss(clip_folder):
    backbone = load_backbone(f"local-dir:{clip_folder}").eval()
    batch = {"pseudo_targets": torch.rand(4, 3, 64, 64), "texts": backbone.tokenize(["red", "is longer", "blue", "x"])}
    models = Iacma(backbone), WordsToo(backbone, weight=1.0), WordsToo(backbone, weight=2.0)
    losses = [model.loss(*model(**batch)).item() for model in models]
    assert losses[2] - losses[1] == pytest.approx(losses[1] - losses[0], rel=1e-4)
    assert losses[1] > losses[0]


def test_hard_negatives_make_other_batches(cfg, tiny, tmp_path):
    run = load_config("lite", [*tiny, f"runs={tmp_path}"])
    shutil.copytree(cfg.run_dir / "iacma", run.run_dir / "iacma")
    data = prepare_data(run)._replace(neighbours=2)
    plain, hard = stages.train_atf(cfg), stages.train_fusion(run, "atf", token_fusion(run), data=data)
    assert hard["epoch"].tolist() == plain["epoch"].tolist()
    assert abs(hard["loss"].iloc[1] - plain["loss"].iloc[1]) > 1e-6


@pytest.fixture(scope="module")
def on_cirr(cfg, tiny):
    """A profile that learns from CIRR's layout, where the tiny world has two pairs an img_set; and its encoders."""
    fashioniq, cirr = cfg.data.root, cfg.data.also_evaluate[0].root

    def made(name, *changes):
        run = load_config("lite", [
            *tiny, f"name={name}", f"data.root={cirr}", "data.layout=cirr", "evaluation.protocols=[cirr]",
            "atf.epochs=1", f"data.also_evaluate=[{{layout: fashioniq, root: {fashioniq}}}]", *changes,
        ])  # fmt: skip
        shutil.copytree(cfg.run_dir / "iacma", run.run_dir / "iacma")
        return run

    return made


def test_edits_of_one_source_make_other_batches(on_cirr, monkeypatch):
    orders, train_loader = [], stages.train_loader
    monkeypatch.setattr(stages, "train_loader", lambda *given: orders.append(given[-1]) or train_loader(*given))
    plain, one, two = (on_cirr(f"edits-{n}", *changes) for n, changes in enumerate(
        ([], ["data.edits_together=1"], ["data.edits_together=2"])))  # fmt: skip
    losses = [stages.train_atf(run)["loss"].iloc[1] for run in (plain, one, two)]
    assert losses[0] == losses[1]
    assert abs(losses[2] - losses[1]) > 1e-6
    assert orders[:2] == [None, None]
    kept = prepare_data(two).kept
    rows = orders[2](torch.Generator().manual_seed(0))
    beside = [kept[a].group_members == kept[b].group_members for a, b in zip(rows, rows[1:], strict=False)]
    assert sum(beside) >= 5


def test_a_rival_has_them_too(on_cirr, monkeypatch):
    orders, train_loader = [], stages.train_loader
    monkeypatch.setattr(stages, "train_loader", lambda *given: orders.append(given[-1]) or train_loader(*given))
    stages.train_clip4cir(on_cirr("edits-rival", "data.edits_together=2"))
    assert [order.func.__name__ for order in orders] == ["edits_together"] * 2


def test_edits_together_that_cannot_be_had_are_refused(cfg, tiny, on_cirr):
    with pytest.raises(InputError, match=r"data.edits_together: 3: no two of the \d+ triplets .* write 1"):
        prepare_data(load_config("lite", [*tiny, "name=edits-none", "data.edits_together=3"]))
    run = on_cirr("edits-near", "data.edits_together=2")
    with pytest.raises(InputError, match="data.edits_together: 2: batches cannot have groups of near targets"):
        stages.train_fusion(run, "atf", token_fusion(run), data=prepare_data(run)._replace(neighbours=2))
