"""The kinds of job: one file each holds what can be asked (settings and their checks), the request and the reply.

Importing this package makes every kind known to the wire format.
"""

from . import edit, generate, perceive

__all__ = ["edit", "generate", "perceive"]
