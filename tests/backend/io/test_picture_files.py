"""Panorama files as people have them, read by the command line: pixels and encoding, or the reason of the refusal."""

import numpy as np
import picture_cases
import pytest

from panoform.backend.io import panoramas
from panoform.shared.protocol.errors import PanoramaError


@pytest.mark.parametrize("case", picture_cases.cases(), ids=picture_cases.identifier)
def test_file_is_read_or_refused(tmp_path, case):
    path = case.write(tmp_path)
    if case.pixels is None:
        with pytest.raises(PanoramaError, match=case.refusal) as caught:
            panoramas.read(path, layer=case.layer)
        assert caught.value.hint
        return
    pixels, encoding = panoramas.read(path, layer=case.layer)
    assert encoding == case.encoding
    np.testing.assert_allclose(pixels, case.pixels, atol=case.tolerance)
