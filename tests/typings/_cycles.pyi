# What the add-on uses of Cycles' own module, which has no stubs.

with_openimagedenoise: bool
