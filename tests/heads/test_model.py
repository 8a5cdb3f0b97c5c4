"""The whole searcher: switches, hard batches, saving, golden losses, and that it learns."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from diffps.errors import CheckpointError, ConfigError
from diffps.features import Basis, Feature, FeatureShape
from diffps.heads.config import EmbeddingConfig, ModelConfig, MSFRNConfig, TapsConfig
from diffps.metrics.detection import score_detection
from diffps.model import LOSSES, PersonSearcher, Target, build_searcher
from tests.heads.scenes import CANVAS, CONFIG, IDENTITIES, SHAPES, TAPS, Batch, scenes, searcher

GOLDEN = Path(__file__).with_name("golden_losses.json")
GOLDEN_TOLERANCE = 0.02  # relative: another processor sums in another order, and 20 steps of training carry it on
WEIGHTS = {"rpn_cls": 1.0, "rpn_reg": 1.0, "prop_cls": 1.0, "prop_reg": 10.0, "reid": 2.0}
NOBODY = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))


def learn(model: PersonSearcher, batch: Batch, steps: int, *, size: int, lr: float = 1e-3) -> list[dict[str, float]]:
    """Plain Adam over the batch's images in turn; the losses of every step."""
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    history = []
    model.train()
    for step in range(steps):
        start = step * size % len(batch.targets)
        part = batch[start : start + size]
        losses = model(part.features, part.targets)
        optimizer.zero_grad()
        torch.stack([WEIGHTS[name] * loss for name, loss in losses.items()]).sum().backward()
        model.update_memory()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        history.append({name: loss.item() for name, loss in losses.items()})
    return history


VARIANTS = {
    "as is": CONFIG,
    "without dgrpn": replace(CONFIG, dgrpn=None),
    "without msfrn": replace(CONFIG, msfrn=None),
    "without sfan": replace(CONFIG, sfan=None),
    "all off": replace(CONFIG, dgrpn=None, msfrn=None, sfan=None),
    "shared features": replace(CONFIG, shared_features=True),
    "another wavelet": replace(CONFIG, msfrn=MSFRNConfig(wavelet="db2", refine_low_band=True)),
    "convnext": replace(CONFIG, head="convnext"),
    "gfe": replace(CONFIG, embedding=EmbeddingConfig(kind="gfe", size=10)),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_trains_and_finds(name: str) -> None:
    model, batch = searcher(VARIANTS[name]), scenes(2)
    losses = model(batch.features, batch.targets)
    assert tuple(losses) == LOSSES
    sum(losses.values()).backward()
    unused = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not unused
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    model.update_memory()
    model.eval()
    found = model.detect(batch.features, score_threshold=0.0)
    assert len(found) == 2
    assert all(len(persons) > 0 for persons in found)
    for persons in found:
        np.testing.assert_allclose(np.linalg.norm(persons.embeddings, axis=1), 1, atol=1e-5)


def test_one_level_reads_the_level_3_taps_alone() -> None:
    taps = TapsConfig(detection="d", guidance="m.person", level3=("d", "e"))
    assert taps.names == ("d", "m.person", "e")
    model, batch = searcher(taps=taps), scenes(2)
    features = {name: batch.features[name] for name in taps.names}
    sum(model(features, batch.targets).values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_off_means_the_plain_map() -> None:
    batch = scenes(1)
    off = searcher(replace(CONFIG, dgrpn=None)).eval()
    plain = off.aggregation(batch.features["d"])
    torch.testing.assert_close(off.detection_map(batch.features, torch.zeros_like(plain)), plain)
    shared = searcher(replace(CONFIG, dgrpn=None, shared_features=True)).eval()
    refined = shared.msfrn(batch.features)
    assert shared.detection_map(batch.features, refined) is refined


def test_batches_without_persons_give_rpn_negatives_only() -> None:
    model, batch = searcher(), scenes(2)
    losses = model(batch.features, [NOBODY, NOBODY])
    assert losses["rpn_cls"] > 0
    assert [losses[name].item() for name in LOSSES[1:]] == [0.0] * 4
    sum(losses.values()).backward()
    assert not model.box_head.classifier.weight.grad
    model.update_memory()
    assert not model.oim.table.any()
    assert all(buffer.isfinite().all() for buffer in model.buffers())


def test_one_image_of_a_batch_may_be_empty() -> None:
    model, batch = searcher(), scenes(2)
    losses = model(batch.features, [batch.targets[0], NOBODY])
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert losses["reid"] > 0


def test_batches_without_labelled_persons_teach_detection_only() -> None:
    model, batch = searcher(), scenes(2)
    targets = [Target(target.boxes, torch.full_like(target.identities, -1)) for target in batch.targets]
    losses = model(batch.features, targets)
    assert losses["reid"] == 0
    assert losses["prop_cls"] > 0
    sum(losses.values()).backward()
    assert not any(parameter.grad.any() for parameter in model.reid_head.parameters())
    model.update_memory()
    assert model.oim.queue.any()


def test_nothing_detected_works() -> None:
    model, batch = searcher().eval(), scenes(2)
    found = model.detect(batch.features, score_threshold=1.0)
    assert [persons.embeddings.shape for persons in found] == [(0, 48), (0, 48)]
    assert [len(rows) for rows in model.embed(batch.features, [NOBODY.boxes] * 2)] == [0, 0]


def test_an_image_is_found_alike_alone_and_in_a_batch() -> None:
    model, batch = searcher().eval(), scenes(3)
    together = model.detect(batch.features, score_threshold=0.3)
    for image in range(3):
        (alone,) = model.detect(batch[image : image + 1].features, score_threshold=0.3)
        np.testing.assert_allclose(alone.boxes, together[image].boxes, atol=1e-2)
        np.testing.assert_allclose(alone.embeddings, together[image].embeddings, atol=1e-4)


def test_stored_forms_give_the_losses_of_the_dense_features() -> None:
    """int8 with scales, PCA coefficients with their basis, and a mirrored sample, against the same expanded."""
    torch.manual_seed(0)
    batch = scenes(2)
    stored = {}
    for name, feature in batch.features.items():
        height, width, channels = feature.values.shape[1:]
        blocks = -(-height * width // 256)
        values = (feature.values * 20).round().clamp(-127, 127).to(torch.int8)
        stored[name] = Feature(values, torch.full((2, blocks, channels), 0.05).half())
    basis = Basis(torch.randn(8), torch.randn(5, 8))
    stored["d"] = Feature(torch.randn(2, 16, 24, 5), basis=basis, mirror=torch.tensor([True, False]))
    dense = {name: Feature(feature.dense().permute(0, 2, 3, 1).contiguous()) for name, feature in stored.items()}
    results = []
    for features in (stored, dense):
        model = searcher()
        torch.manual_seed(1)
        results.append(model(features, batch.targets))
    for name in LOSSES:
        torch.testing.assert_close(results[0][name], results[1][name], atol=1e-4, rtol=1e-4)


def test_randomness_is_the_global_generator_alone() -> None:
    batch = scenes(2)
    runs = []
    for _ in range(2):
        model = searcher()
        torch.manual_seed(5)
        runs.append([loss.item() for loss in model(batch.features, batch.targets).values()])
    assert runs[0] == runs[1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_gives_finite_float32_losses(dtype: torch.dtype) -> None:
    model, batch = searcher(), scenes(2)
    with torch.autocast("cpu", dtype):
        losses = model(batch.features, batch.targets)
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()


def test_saved_head_comes_back(tmp_path: Path) -> None:
    model, batch = searcher(), scenes(2)
    learn(model, batch, 2, size=2)
    model.eval().save_pretrained(tmp_path / "head", {"epochs": 3})
    loaded = PersonSearcher.from_pretrained(tmp_path / "head")
    assert not loaded.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    for ours, theirs in zip(model.detect(batch.features), loaded.detect(batch.features), strict=True):
        np.testing.assert_array_equal(ours.embeddings, theirs.embeddings)
    assert json.loads((tmp_path / "head" / "config.json").read_text())["training"] == {"epochs": 3}


def test_what_is_no_head_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="config.json is missing"):
        PersonSearcher.from_pretrained(tmp_path)
    searcher().save_pretrained(tmp_path)
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(CheckpointError, match="not a trained head"):
        PersonSearcher.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(weights)
    config = json.loads((tmp_path / "config.json").read_text())
    config["identities"] += 1
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"oim\.table"):
        PersonSearcher.from_pretrained(tmp_path)


def test_taps_that_do_not_fit_are_refused() -> None:
    def build(taps: TapsConfig, shapes: dict[str, FeatureShape] = SHAPES, config: ModelConfig = CONFIG) -> None:
        build_searcher(config, taps, shapes, CANVAS, torch.zeros(4, 9), IDENTITIES)

    with pytest.raises(ConfigError, match="x is not among"):
        build(replace(TAPS, detection="x"))
    with pytest.raises(ConfigError, match="one level share grid and channels"):
        build(replace(TAPS, level3=("d", "b")))
    with pytest.raises(ConfigError, match="an attention map has one"):
        build(replace(TAPS, guidance="d"))
    with pytest.raises(ConfigError, match="sfan: needs the words"):
        build_searcher(CONFIG, TAPS, SHAPES, CANVAS, None, IDENTITIES)


def test_intermediates_are_what_the_forward_uses() -> None:
    model, batch = searcher().eval(), scenes(2)
    maps = model.intermediates(batch.features)
    assert {name: tuple(tensor.shape) for name, tensor in maps.items()} == {
        "refined": (2, 24, 16, 24),
        "before": (2, 24, 16, 24),
        "detection": (2, 24, 16, 24),
        "semantic": (2, 16, 24),
        "guidance": (2, 16, 24),
        "gaussian": (2, 16, 24),
        "peaks": (2, 50, 2),
    }
    for image, peaks in enumerate(maps["peaks"]):
        for x, y in peaks[(peaks >= 0).all(1)]:
            assert maps["gaussian"][image, y, x] == 1
    off = searcher(replace(CONFIG, dgrpn=None, msfrn=None, sfan=None)).eval().intermediates(batch.features)
    assert set(off) == {"refined", "detection"}


def test_golden_losses() -> None:
    """Losses of 20 steps on a fixed seed, so that a refactor that changes the numbers is seen.

    To accept a change that is meant: delete the file and run this test once.
    """
    model, batch = searcher(), scenes(6)
    torch.manual_seed(3)
    history = learn(model, batch, 20, size=2, lr=5e-4)
    if not GOLDEN.exists():
        GOLDEN.write_text(json.dumps(history, indent=1) + "\n")
    for step, (losses, golden) in enumerate(zip(history, json.loads(GOLDEN.read_text()), strict=True)):
        for name in LOSSES:
            expected = pytest.approx(golden[name], rel=GOLDEN_TOLERANCE, abs=1e-3)
            assert losses[name] == expected, f"step {step}, {name}"


@pytest.mark.slow
def test_a_tiny_model_overfits_eight_scenes() -> None:
    model, batch = searcher(), scenes(8)
    torch.manual_seed(3)
    learn(model, batch, 60, size=4, lr=2e-3)
    learn(model, batch, 120, size=4, lr=1e-3)
    model.eval()
    found = model.detect(batch.features)
    scores = score_detection(
        np.concatenate([persons.boxes for persons in found]),
        np.concatenate([persons.scores for persons in found]),
        np.repeat(np.arange(8), [len(persons) for persons in found]),
        np.concatenate([target.boxes.numpy() for target in batch.targets]),
        np.repeat(np.arange(8), [len(target.boxes) for target in batch.targets]),
    )
    assert scores.ap > 0.95
    assert search_map(model, batch, scores.matches, [persons.embeddings for persons in found]) > 0.95


def search_map(model: PersonSearcher, batch: Batch, matches: np.ndarray, found: list[np.ndarray]) -> float:
    """Mean average precision of every person as a query among the detections of the other scenes."""
    identities = np.concatenate([target.identities.numpy() for target in batch.targets])
    embeddings = np.concatenate(found)
    scene = np.repeat(np.arange(len(found)), [len(rows) for rows in found])
    shown = np.where(matches >= 0, identities[matches], -1)
    precisions = []
    queries = model.embed(batch.features, [target.boxes for target in batch.targets])
    for image, rows in enumerate(queries):
        for query, identity in zip(rows.numpy(), batch.targets[image].identities.tolist(), strict=True):
            order = np.argsort(-(embeddings @ query), kind="stable")
            right = (shown == identity)[order][scene[order] != image]
            existing = sum(int((t.identities == identity).sum()) for i, t in enumerate(batch.targets) if i != image)
            ranks = np.flatnonzero(right) + 1
            precisions.append((np.arange(1, len(ranks) + 1) / ranks).sum() / existing)
    return float(np.mean(precisions))


def test_detections_are_the_candidates_above_the_threshold() -> None:
    model, batch = searcher().eval(), scenes(3)
    for threshold in (0.3, 0.5):
        found = model.detect(batch.features, score_threshold=threshold)
        for persons, candidates in zip(found, model.candidates(batch.features), strict=True):
            strong = candidates.scores > threshold
            np.testing.assert_array_equal(persons.boxes, candidates.boxes[strong].numpy())
            np.testing.assert_array_equal(persons.scores, candidates.scores[strong].numpy())
            assert len(candidates.proposals) >= len(candidates.boxes)


def test_one_roi_has_no_statistics_and_teaches_nothing() -> None:
    """Of one person and one box beside it, where a third of the samples may be persons: the box alone is sampled."""
    config = replace(CONFIG, box=replace(CONFIG.box, samples=3), reid=replace(CONFIG.reid, samples=3))
    model, batch = searcher(config), scenes(1, persons=1)
    detection = model.detection_map(batch.features, model.msfrn(batch.features))
    beside = torch.tensor([[0.0, 0, 5, 5]])
    decoded, losses = model.box_head.learn(detection, [beside], batch.targets)
    assert (tuple(decoded[0].shape), [loss.item() for loss in losses.values()]) == ((0, 4), [0, 0])
    boxes, labels = model.reid_head.sample([beside], batch.targets)
    assert (len(boxes[0]), labels.tolist()) == (1, [-2])
    model.box_head.learn = lambda *_: ([beside[:0]], losses)
    model.proposals.forward = lambda *_: ([beside], {})
    assert model(batch.features, batch.targets)["reid"] == 0
