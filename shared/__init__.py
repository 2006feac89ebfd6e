"""Code that both the Blender add-on and the backend import: the contract between them."""

#: Panoform's version; kept equal in pyproject.toml and the extension's manifest.
VERSION = "0.1.0"
