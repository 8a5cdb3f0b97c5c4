"""How ``builtin:streets`` was made: a small latent diffusion model trained on drawn streets, on a CPU."""
