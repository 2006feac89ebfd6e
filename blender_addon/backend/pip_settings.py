"""Take from the user's settings of pip and uv how packages are reached, and nothing of how they are installed.

pip reads its settings from files and from variables PIP_…, uv from variables UV_… (it runs with --no-config). An index
or a proxy is needed; a prefix writes elsewhere than into the environment, and no-deps leaves it without its packages.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Mapping

_REACH = (
    r"index-url|extra-index-url|find-links|no-index|trusted-host|proxy|cert|client-cert|keyring-provider|cache-dir"
    r"|no-cache-dir|timeout|retries"
)
#: A line of `pip config list`. Later sections count more.
_SETTING = re.compile(rf"^(?P<section>global|install|:env:)\.(?P<name>{_REACH})=(?P<value>.*)$", re.MULTILINE)
_SECTIONS = ("global", "install", ":env:")
_UV = re.compile(
    r"UV_(DEFAULT_INDEX|INDEX\w*|EXTRA_INDEX_URL|FIND_LINKS|NO_INDEX|INSECURE_HOST|NATIVE_TLS|SYSTEM_CERTS"
    r"|KEYRING_PROVIDER|CACHE_DIR|NO_CACHE|HTTP_TIMEOUT|HTTP_RETRIES|OFFLINE)"
)


def environment(settings: str, variables: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment in which pip and uv run. `settings`: the output of `pip config list` outside of it."""
    kept = {
        name: value
        for name, value in variables.items()
        if not name.upper().startswith(("PIP_", "UV_")) or _UV.fullmatch(name.upper())
    }
    found = sorted(_SETTING.finditer(settings), key=lambda line: _SECTIONS.index(line["section"]))
    for line in found:
        kept["PIP_" + line["name"].upper().replace("-", "_")] = ast.literal_eval(line["value"])
    return kept | {"PIP_CONFIG_FILE": os.devnull}
