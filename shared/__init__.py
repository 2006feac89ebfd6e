"""What Blender and the backend both import: the contract between them."""

#: Panoform's version; pyproject.toml and the extension's manifest say the same.
VERSION = "0.1.0"
