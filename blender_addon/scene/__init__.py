"""Maps → datablocks: images, world, dome and material, one module each, combined by build.py."""
