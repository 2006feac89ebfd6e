"""Options of properties that hold paths."""

import bpy

#: For paths that may be relative to the .blend ("//panoramas"), which Blender 4.5 and later must be told.
BLEND_RELATIVE = {"PATH_SUPPORTS_BLEND_RELATIVE"} if bpy.app.version >= (4, 5) else set()
