"""Small checkpoints that need no download, in diffusers' layout and with Stable Diffusion 2.1's topology.

``random`` has random weights behind a VAE that carries colours; it is made on the spot, for tests. ``streets`` was
trained on drawn streets and comes with the package; its README.md is the model card.
"""

from pathlib import Path

from diffps.errors import CheckpointError

BUILTIN_NAMES = ("random", "streets")
MODELS = Path("models")  # below the repository's root, which is where every command runs
SHIPPED = Path(__file__).parent / "streets"

# Whoever shows the word maps of `streets` has to say this beside them.
MAPS_NOTE = (
    "The word maps of builtin:streets were trained against the drawn masks of persons, parts and objects; "
    "they show that the machinery works, not what a text-to-image model learns by itself."
)


def builtin_folder(name: str, shipped: Path = SHIPPED) -> Path:
    """The folder of the built-in checkpoint ``name``, made first where it has to be.

    ``shipped`` is the folder of ``streets``. Raises CheckpointError for a name that is not in BUILTIN_NAMES, or a
    package without its data.
    """
    if name == "random":
        from diffps.backbone.builtin.topology import make_random

        return make_random(MODELS / "random")
    if name == "streets":
        if not (shipped / "model_index.json").is_file():
            raise CheckpointError(
                f"checkpoint builtin:streets: {shipped} is not in this installation; make it with `diffps pretrain` "
                "and name its folder, models/streets"
            )
        return shipped
    raise CheckpointError(f"checkpoint builtin:{name}: there are {' and '.join('builtin:' + n for n in BUILTIN_NAMES)}")
