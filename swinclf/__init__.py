"""swinclf: transfer learning on folders of images with Swin and ViT."""

__version__ = "0.1.0"
