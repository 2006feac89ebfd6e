# What the add-on uses of Cycles' own module, which has no stubs.

with_openimagedenoise: bool

def init(path: str, user_path: str, headless: bool, /) -> None: ...
