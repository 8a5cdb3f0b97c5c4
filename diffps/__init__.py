"""DiffPS: person search on the features of a frozen diffusion model."""
