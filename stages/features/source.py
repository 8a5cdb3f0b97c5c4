"""Where heads get features: from the store, or from the backbone now. Both give the same bytes."""

from diffps.datasets.tables import read_scenes
from diffps.errors import DatasetError
from diffps.features import FeatureSource
from diffps.records import Split
from stages.config_data import EncodeConfig, ExtractConfig
from stages.config_heads import SourceKind
from stages.features.cached import CachedSource, check_made_under
from stages.features.inputs import check_checkpoint
from stages.features.live import LiveSource
from stages.features.opening import open_store
from stages.features.plan import PassPlan
from stages.features.reading import Reading
from stages.images import ImageFolder
from stages.job import Job, Runtime
from stages.places import INDEX
from stages.together import index_folder


def open_source(
    reading: Reading,
    split: Split,
    kind: SourceKind,
    *,
    encode: EncodeConfig,
    extract: ExtractConfig,
    images: ImageFolder,
    runtime: Runtime,
) -> CachedSource | LiveSource:
    """The features of the indexed scenes of a split that ``reading`` names, as ``encode`` and ``extract`` make them.

    ``images``: the image files, which only live features need. Raises NotCachedError, RecipeError where
    the store was filled under other parameters, DamagedError, CheckpointError; DatasetError where the index has no
    image of the split.
    """
    scenes = read_scenes(index_folder())
    chosen = [scene for scene in scenes if scene.split == split]
    if not chosen:
        raise DatasetError(f"{INDEX}: has no image of the {split} split, which is to be read")
    store = open_store(runtime.store)
    if kind == "live":
        return LiveSource(reading, split, PassPlan(encode, reading.asked_of(extract), store), scenes, images, runtime)
    source = CachedSource(reading, split, store, chosen, threads=runtime.reading_threads)
    for manifest, spec in source.manifests.items():
        check_made_under(encode, extract, spec, manifest)
    check_checkpoint(encode, extract)
    return source


def skipped_scenes(source: FeatureSource, job: Job) -> frozenset[str]:
    """Scenes to leave out, and says so. With live features every file is decoded once to find them."""
    skipped = source.skipped()
    if skipped:
        job.say(f"{len(skipped)} unreadable scenes are left out, as extraction skips them: {sorted(skipped)[0]}, ...")
    return skipped
