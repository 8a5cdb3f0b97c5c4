"""How well a head tells apart identities it was not trained on: mAP among ground-truth boxes of held-out scenes."""

import numpy as np
import torch

from diffps.features import FeatureSource, Ref, expand_once
from diffps.metrics.retrieval import retrieval_map
from diffps.training import HeadTrainer
from stages.head.data import TrainingSet, check_searchable


def held_out_map(trainer: HeadTrainer, data: TrainingSet, source: FeatureSource) -> float:
    """mAP in [0, 1] of the head as it is now; each held-out person searches the other held-out scenes.

    Raises ConfigError where nobody is held out who is seen in two scenes.
    """
    check_searchable(data.held_out)
    scene_ids = list(data.held_out)
    batches = [scene_ids[i : i + data.order.batch] for i in range(0, len(scene_ids), data.order.batch)]
    refs = [[Ref(scene_id) for scene_id in batch] for batch in batches]
    embeddings, identities, scenes = [], [], []
    model = trainer.model.eval()
    with torch.no_grad():
        for batch, features in zip(batches, source.stream(refs, trainer.names), strict=True):
            shared = {name: expand_once(features[name], None, trainer.device) for name in trainer.names}
            boxes = [torch.from_numpy(data.held_out[scene_id].boxes).to(trainer.device) for scene_id in batch]
            embeddings += [found.float().cpu().numpy() for found in model.embed(shared, boxes)]
            identities += [data.held_out[scene_id].identities for scene_id in batch]
            scenes += [np.full(len(found), scene_ids.index(s)) for s, found in zip(batch, boxes, strict=True)]
    model.train()
    return retrieval_map(np.concatenate(embeddings), np.concatenate(identities), np.concatenate(scenes))
