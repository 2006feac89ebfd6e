"""A batch: perceiving all panoramas in a folder, by `panoform`, `blender --command panoform`, or a render farm."""
