"""Maps → datablocks: images, world, dome, material, one file each; build.py puts them together."""
