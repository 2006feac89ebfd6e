"""The writer of result folders (shared/atomic_write.py)."""

from ...shared.atomic_write import check_writable, writing

__all__ = ["check_writable", "writing"]
