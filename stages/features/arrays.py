"""The work of encode and extract: which arrays they complete over which images, and the manifests they write then."""

from collections.abc import Callable, Sequence
from functools import cache

from cache import CacheError
from diffps.backbone.prior import Prior
from diffps.records import Scene, Split, View
from stages.config_data import EncodeConfig
from stages.features.plan import PassPlan
from stages.features.recipes import moments_spec
from stages.features.shards import Place, Work
from stages.images import ImageFolder
from stages.places import ENCODED, EXTRACTED, moments_manifest, pass_manifests


def splits(scenes: Sequence[Scene]) -> list[Split]:
    """The splits that have images, train first."""
    known: tuple[Split, Split] = ("train", "test")
    return [split for split in known if any(scene.split == split for scene in scenes)]


def images_of(scenes: Sequence[Scene], split: Split) -> list[tuple[str, str]]:
    """(scene id, digest) of every scene of a split."""
    return [(scene.scene_id, scene.digest) for scene in scenes if scene.split == split]


def latent_work(config: EncodeConfig, prior: Prior, scenes: Sequence[Scene], images: ImageFolder) -> list[Work]:
    """What encode writes over ``scenes``, whose files are ``images``: moments of every split and view, where the prior
    has any."""
    if prior.latent_channels is None:
        return []
    work, readable = list[Work](), _readable(scenes, images)
    for split in splits(scenes):
        for view in config.views_of(split):
            specs = [moments_spec(config, prior, split, view)]
            manifests = {moments_manifest(split, view): specs}
            work.append(Work(Place(split, view), specs, images_of(scenes, split), ENCODED, manifests, readable))
    return work


def pass_work(plan: PassPlan, scenes: Sequence[Scene], images: ImageFolder | None = None) -> list[Work]:
    """What a pass writes over ``scenes``: taps and maps of every split, view and timestep.

    ``images``: the image files, where those are what a prior without moments starts from; None for who computes none.
    """
    work = []
    for split in splits(scenes):
        for view in plan.encode.views_of(split):
            if plan.prior.latent_channels is not None:
                readable = _has_moments(plan, scenes, split, view)
            else:
                readable = _readable(scenes, images)
            for timestep in plan.extract.timesteps:
                specs = list(plan.specs(split, view, timestep).values())
                folder = pass_manifests(split, view, plan.extract.name, timestep)
                manifests = {folder / f"{spec.name}.json": [spec] for spec in specs}
                work.append(
                    Work(Place(split, view, timestep), specs, images_of(scenes, split), EXTRACTED, manifests, readable)
                )
    return work


def _readable(scenes: Sequence[Scene], images: ImageFolder | None) -> Callable[[str], bool]:
    by_id = {scene.scene_id: scene for scene in scenes}
    return cache(lambda scene_id: images is None or images.is_readable(by_id[scene_id]))


def _has_moments(plan: PassPlan, scenes: Sequence[Scene], split: Split, view: View) -> Callable[[str], bool]:
    """Says of a scene that its moments are stored; the store is opened when first asked."""
    spec = plan.moments(split, view)
    reader = cache(lambda: plan.store.reader([spec], images=images_of(scenes, split)))

    def has(scene_id: str) -> bool:
        try:
            return reader().has(scene_id, spec.name)
        except CacheError:
            return False

    return has
