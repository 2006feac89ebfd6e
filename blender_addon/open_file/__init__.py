"""Picture files from outside: dropped onto the 3D View, or chosen in the File Browser's context menu."""
