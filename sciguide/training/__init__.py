"""Training: `diffusion.DiffusionModule`, the base model."""
