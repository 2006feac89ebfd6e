"""Do the panoramas of a batch, one after the other, in this process: in the command's, or in a worker of Ray."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any, cast

import msgspec

from ....shared.file_errors import system_error
from ....shared.jobs.perceive import Info, PerceiveReply
from ....shared.protocol.errors import (
    AdapterError,
    Cancelled,
    DeviceMemoryError,
    PanoformError,
    SettingError,
    WeightsError,
    from_code,
    unexpected,
)
from ...jobs import registry
from ...jobs.progress import ProgressReporter
from ...models.cache import ModelCache
from .. import perceive
from .plan import Plan, finished


class Done(msgspec.Struct):
    """A panorama whose result is written."""

    info: Info
    #: Whether an earlier run wrote it.
    earlier: bool


class Failure(msgspec.Struct):
    """A panorama that failed, in a form that can be sent between processes."""

    code: str
    message: str
    hint: str
    #: The traceback of an unexpected error, else "".
    details: str = ""

    @classmethod
    def of(cls, error: Exception) -> Failure:
        """Describe an error."""
        told = error if isinstance(error, PanoformError) else system_error(error) or unexpected(error)
        details = "" if told is error else "".join(traceback.format_exception(error))
        return cls(told.code, told.message, told.hint, details)

    @property
    def error(self) -> PanoformError:
        """The error that it describes."""
        return from_code(self.code, self.message, self.hint)

    @property
    def ends_batch(self) -> bool:
        """Whether the other panoramas would fail in the same way."""
        return isinstance(self.error, (SettingError, WeightsError, AdapterError))


class Work:
    """The panoramas of a batch, done one at a time with models that stay in memory."""

    def __init__(self, plan: Plan, reporter: ProgressReporter) -> None:
        """Find the engine; downloads are reported to `reporter`. Raise SettingError, WeightsError."""
        from ...models.flux import loader  # here, as torch takes seconds
        from ...perception.job import identity

        self._plan = plan
        self._models = ModelCache()
        self._wanted: dict[str, Any] = identity(plan.engine, plan.settings, loader.find(plan.engine, reporter))

    def do(self, source: Path, reporter: ProgressReporter) -> Done | Failure:
        """Write the result of one panorama, unless it is finished. Raise Cancelled, and no other Exception."""
        try:
            if info := finished(self._plan, source, self._wanted):
                return Done(info, earlier=True)
            return Done(self._perceive(source, reporter), earlier=False)
        except Cancelled:
            raise
        except Exception as error:
            if isinstance(error, DeviceMemoryError):
                self._models.release_unused()
            return Failure.of(error)

    def _perceive(self, source: Path, reporter: ProgressReporter) -> Info:
        plan = self._plan
        request = perceive.request(
            source, plan.folder(source), plan.engine, plan.settings, list(plan.panoramas), overwrite=plan.overwrite
        )
        return cast("PerceiveReply", registry.run(request, self._models, reporter)).info
