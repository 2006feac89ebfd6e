"""The kinds of job, one file each: settings and their checks, the request and the reply.

Importing this package registers every kind with the wire format.
"""

from . import edit, generate, models, perceive, scene, texture

__all__ = ["edit", "generate", "models", "perceive", "scene", "texture"]
