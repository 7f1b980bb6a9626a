"""Networks: `unet.UNet`."""
