import time

import numpy as np

from panoform.backend.jobs.progress import ProgressReporter, Stage, StagedProgress
from panoform.backend.models.cache import ModelCache
from toy.contract import AddReply, AddRequest, OverflowingError


def run(request: AddRequest, models: ModelCache, reporter: ProgressReporter) -> AddReply:
    began, total = time.monotonic(), 0.0
    progress = StagedProgress(reporter, [Stage("Adding", len(request.numbers))])
    for number in request.numbers:
        time.sleep(request.step_s)
        total += float(number)
        if total > request.limit:
            raise OverflowingError(f"The sum is {total:g}.", f"Keep it below {request.limit:g}.")
        reporter.preview("sum", np.full((4, 8, 3), min(total, 255), np.uint8))
        progress.step_done()
    return AddReply(id=request.id, total=total, seconds=time.monotonic() - began)
