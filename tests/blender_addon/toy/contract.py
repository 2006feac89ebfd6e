import msgspec
import numpy as np

from panoform.shared.protocol.errors import PanoformError
from panoform.shared.protocol.messages import JobReply, JobRequest


class OverflowingError(PanoformError):
    code = "toy_overflow"


class AddRequest(JobRequest, kw_only=True):
    """Add numbers, one a step."""

    #: (N,) float32.
    numbers: np.ndarray
    limit: float = 1e6
    step_s: float = 0.0


class AddReply(JobReply, kw_only=True):
    total: float
    seconds: float = msgspec.field(default=0.0)

    @property
    def compute_seconds(self) -> float:
        return self.seconds
