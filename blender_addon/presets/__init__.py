"""Presets: settings of Perceive, Generate and Texture, saved under a name and shared as files."""
