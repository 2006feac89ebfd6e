# The Cycles add-on, which comes with Blender.

__file__: str
