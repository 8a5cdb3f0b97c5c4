"""The model card of the shipped checkpoint, written from the held-out report."""

from collections.abc import Mapping
from typing import Any

from diffps.backbone.builtin import MAPS_NOTE


def model_card(recipe: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    """README.md of the checkpoint. ``report`` is what the stage writes as results/pretrain/metrics.json."""
    made, config, words, control = (
        recipe["made_with"],
        recipe["pretrain"],
        report["words"]["0"],
        report["control"]["words"]["0"],
    )
    widths = config["widths"]
    lines = [
        "# builtin:streets",
        "",
        "A small latent diffusion model of drawn street scenes, in diffusers' layout and with the topology of",
        "Stable Diffusion 2.1: all 229 taps exist. It lets the whole of DiffPS run without a download. It is no model",
        "of photographs.",
        "",
        f"**{MAPS_NOTE}**",
        "",
        f"- Made by `{recipe['command']}`, seed {config['seed']}; every setting lies in recipe.json. The data are",
        "  drawn by diffps.datasets.streets: no photograph, no person, no third party's weights entered.",
        f"- UNet widths {widths['unet']}, text width {widths['text']}, vocabulary of the drawn streets; VAE with f = 8",
        "  and four latent channels, started as a linear colour codec, latents of unit variance.",
        f"- Trained on {config['scenes']} scenes: the VAE for {config['vae_steps']} steps, UNet and text encoder for",
        f"  {config['steps']} steps on predicting noise plus {config['map_weight']} x KL(drawn mask || word map) below",
        f"  timestep {config['map_timesteps']}, for the words {', '.join(words)}.",
        "- The same recipe gives the same weights bit for bit only with the same torch and threads; these are of torch",
        f"  {made['torch']}, {made['device']}, {made['threads']} thread(s). float16 safetensors; digests of the parts:",
        *(f"  {part} `{digest}`" for part, digest in recipe["digests"].items()),
        "",
        f"## Held out: {report['scenes']} scenes of other persons before other cameras",
        "",
        f"VAE: {report['psnr']:.1f} dB. Each word alone is the prompt; map `{report['map_tap']}`,",
        "mean over heads, t = 0. Pointing: the map's highest cell shows the word. AP: of the map as a score of pixels.",
        "",
        "| word | pointing | chance | random UNet | pixel AP | chance | random UNet | AP at t = 50 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for word, row in words.items():
        other, later = control[word], report["words"]["50"][word]
        values = (
            *(row["pointing"], row["pointing_chance"], other["pointing"]),
            *(row["ap"], row["ap_chance"], other["ap"], later["ap"]),
        )
        lines.append(f"| {word} | " + " | ".join(f"{value:.2f}" for value in values) + " |")
    lines += [
        "",
        "Parts inside the boxes of persons at least 60 px tall, pixel AP (chance):",
        ", ".join(f"{part} {row['ap']:.2f} ({row['ap_chance']:.2f})" for part, row in report["parts"]["0"].items())
        + ".",
        "",
        "Where the maps of `person` and `car` lie, as multiples of their mean: "
        + "; ".join(
            f"`{word}` on persons {row['person']:.1f}, cars {row['car']:.1f}, background {row['background']:.1f}"
            for word, row in report["specificity"]["0"].items()
            if word in ("person", "car")
        )
        + ".",
        "",
        "The same person before another camera (three strips a person; nearest neighbour, linear probe; chance "
        f"{report['identity']['0']['latents']['chance']:.3f}):",
        "",
        "| features, t = 0 | nearest | probe |",
        "|---|---|---|",
    ]
    lines += [
        f"| {name} | {row['nearest']:.2f} | {row['probe']:.2f} |" for name, row in report["identity"]["0"].items()
    ]
    lines += [
        "",
        "## Limits",
        "",
        "Cells are 8 px: small or mostly hidden persons give weak or false peaks, thin stripes blur. The vocabulary is",
        "that of the drawings; other words fall to bytes that were never trained.",
        "",
    ]
    return "\n".join(lines)
