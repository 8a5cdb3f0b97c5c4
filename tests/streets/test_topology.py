"""What the built-in checkpoints are made of: their configs, their words, and the weights the VAE starts from."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from diffps.backbone.builtin import SHIPPED, topology
from diffps.backbone.builtin.topology import (
    Parts,
    Widths,
    build,
    check_unseen,
    make_random,
    read_recipe,
    save_checkpoint,
)
from diffps.backbone.builtin.vocabulary import byte_pairs, make_tokenizer
from diffps.datasets.streets.captions import WORDS
from diffps.errors import ConfigError

SUMS = Path(__file__).with_name("colour_codec.json")
# Of the file and the versions that wrote it, not of the model.
OF_THE_FILE = {"_diffusers_version", "transformers_version", "dtype", "architectures", "_class_name", "_name_or_path"}


@pytest.fixture(scope="module")
def parts() -> Parts:
    recipe = read_recipe(SHIPPED)
    assert recipe is not None
    return build(Widths(**{name: tuple(v) if name != "text" else v for name, v in widths(recipe).items()}), 0)


def widths(recipe: dict[str, Any]) -> dict[str, Any]:
    return dict(recipe["pretrain"]["widths"])


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_new_checkpoint_has_the_configs_of_the_shipped_one(parts: Parts, part: str) -> None:
    shipped = json.loads((SHIPPED / part / "config.json").read_text())
    config = getattr(parts, part).config
    made = json.loads(json.dumps(config.to_dict() if hasattr(config, "to_dict") else dict(config)))
    assert {key: made.get(key) for key in shipped.keys() - OF_THE_FILE} == {
        key: value for key, value in shipped.items() if key not in OF_THE_FILE
    }


def test_a_checkpoint_that_is_written_has_the_schedule_and_the_index_of_the_shipped_one(tmp_path: Path) -> None:
    small = Widths(unet=(8, 8, 8, 8), heads=(1, 1, 1, 1), text=8)
    folder = make_random(tmp_path / "random", small)
    for name in ("scheduler/scheduler_config.json", "model_index.json"):
        made, shipped = (json.loads((root / name).read_text()) for root in (folder, SHIPPED))
        assert made | {"_diffusers_version": ""} == shipped | {"_diffusers_version": ""}, name
    for path in (folder, *folder.rglob("*")):
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644)
        assert "_name_or_path" not in path.name
    assert all("_name_or_path" not in path.read_text() for path in folder.glob("*/config.json"))


def test_the_vocabulary_is_that_of_the_shipped_tokenizer() -> None:
    shipped = json.loads((SHIPPED / "tokenizer/tokenizer.json").read_text())["model"]
    vocabulary, merges = byte_pairs(WORDS)
    assert vocabulary == shipped["vocab"]
    assert [list(pair) for pair in merges] == [list(pair) for pair in shipped["merges"]]
    assert [vocabulary[letter] for letter in "!~¡¬®ÿ"] == [0, 93, 94, 105, 106, 187]
    assert (vocabulary["Ā"], vocabulary["Ń"]) == (188, 255)  # bytes that are no letters: 0 and 173
    tokenizer = make_tokenizer()
    assert (tokenizer.model_max_length, tokenizer.bos_token, tokenizer.eos_token) == (
        77,
        "<|startoftext|>",
        "<|endoftext|>",
    )


@torch.inference_mode()
def test_the_vae_starts_with_the_colour_of_every_block(parts: Parts) -> None:
    """Luminance, two chroma channels and a gradient, each over its spread in drawn streets."""
    for red, green, blue in ((0.6, -0.2, 0.1), (-0.5, 0.3, 0.8), (0.0, 0.0, 0.0)):
        image = torch.tensor([red, green, blue]).view(1, 3, 1, 1).expand(1, 3, 64, 64)
        latents = parts.vae.encode(image).latent_dist
        expected = [
            (0.3 * red + 0.6 * green + 0.1 * blue) / 0.4,
            (red - green) / 0.22,
            (blue - (red + green) / 2) / 0.22,
            0.0,
        ]
        inside = latents.mean[0, :, 2:-2, 2:-2].mean((1, 2))
        torch.testing.assert_close(inside, torch.tensor(expected), atol=0.5, rtol=0.05)
        assert latents.logvar.mean() == pytest.approx(-7, abs=0.1)


def projections(model: torch.nn.Module) -> dict[str, float]:
    """Each tensor along a direction of its own, to six digits: every weight and every place counts."""
    found = {}
    for name, value in model.state_dict().items():
        places = torch.arange(value.numel(), dtype=torch.float64)
        found[name] = float(f"{float((value.double().flatten() * torch.sin(1.7 * places + 0.3)).sum()):.6g}")
    return found


def test_the_weights_a_vae_starts_from_are_the_recorded_ones() -> None:
    """Where a change is meant: ``json.dumps(projections(vae), indent=0)`` is the file's content."""
    vae = build(Widths(unet=(8, 8, 8, 8), heads=(1, 1, 1, 1), text=8), 0).vae
    recorded = json.loads(SUMS.read_text())
    assert projections(vae) == pytest.approx(recorded, rel=1e-4, abs=1e-4)


def test_scenes_of_the_training_and_of_the_measurement_are_refused(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text('{"pretrain": {"seed": 5}}')
    for seed in (5, 6):
        with pytest.raises(ConfigError, match=rf"index.streets.seed {seed}: draws .*\(seeds 5, 6\); choose another"):
            check_unseen(tmp_path, seed)
    for seed in (4, 7):
        check_unseen(tmp_path, seed)
    for content in ("{}", "[5]", "{", '{"pretrain": {}}'):
        (tmp_path / "recipe.json").write_text(content)
        check_unseen(tmp_path, 5)


@dataclass
class Saved:
    """A part that writes its config alone."""

    content: str = '{"a": 1, "_name_or_path": "/somewhere"}'

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir(mode=0o700)
        (folder / "config.json").write_text(self.content)


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, synced = tmp_path / "models" / "made", []
    monkeypatch.setattr(topology, "sync", lambda path: synced.append((path, folder.exists())))
    save_checkpoint(Parts(Saved(), Saved(), Saved(), Saved("{}")), folder, {"b": 2})
    assert synced.pop() == (folder.parent, True)
    assert not any(there for _, there in synced)
    (temporary, *files) = [path for path, _ in synced]
    assert temporary.parent == folder.parent
    assert {path.relative_to(temporary) for path in files} == {path.relative_to(folder) for path in folder.rglob("*")}
    assert read_recipe(folder) == {"b": 2}
    assert json.loads((folder / "unet/config.json").read_text()) == {"a": 1}
    save_checkpoint(Parts(Saved("{}"), Saved(), Saved(), Saved()), folder, {"b": 3})  # what lay there is replaced
    assert (read_recipe(folder), (folder / "unet/config.json").read_text()) == ({"b": 3}, "{}\n")
    assert [path.name for path in folder.parent.iterdir()] == ["made"]


def test_a_folder_that_comes_back_three_times_is_said(tmp_path: Path) -> None:
    class Late:
        tries = 0

        def rename(self, folder: Path) -> None:
            self.tries += 1
            folder.mkdir()
            raise OSError

    late = Late()
    with pytest.raises(OSError, match=f"^{tmp_path}/made cannot be replaced; is another process writing it[?]$"):
        topology._replace(late, tmp_path / "made")  # type: ignore[arg-type]
    assert late.tries == 3
    assert list(tmp_path.iterdir()) == []
