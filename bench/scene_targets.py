"""What is asked of the mesh that scene_geometry.py measures: see its --targets."""

from __future__ import annotations

import numpy as np

#: What is asked of "ours" by measure: what it is compared with, "best" (the better of "closed" and "torn"), "closed" or
#: nothing; what is added to that and by what it is multiplied, for exact and for soft maps; None: nothing is asked.
TARGETS: dict[str, tuple[str, tuple[float, float] | None, tuple[float, float] | None]] = {
    "seen dB": ("best", (0, 1), (0, 1)),
    "all dB": ("best", (0.5, 1), (0, 1)),
    "wrong": ("best", (0, 0.75), (0, 0.9)),
    "rubber": ("closed", (0, 0.25), (0, 0.5)),
    "false": ("best", (0, 0.6), (0, 0.75)),
    "walled": ("", (2, 0), (10, 0)),
    "relit": ("best", (1, 1), None),
    "p95": ("", (0.1, 0), None),
    "scale": ("", (1, 0), (2, 0)),
    "triangles": ("", (300_000, 0), (300_000, 0)),
}
#: Measures of which more is better.
MORE = "seen dB", "all dB", "relit"


def report(rows: dict[str, dict[str, float]], is_soft: bool) -> None:
    """Print what is asked of "ours" beside what it is."""
    print(f"\n{'':12}{'asked':>12}{'is':>12}")
    for name, (of, *asked) in TARGETS.items():
        wanted = asked[is_soft]
        for key in (f"{name} 0.5", f"{name} 1", name):
            found = rows["ours"].get(key, np.nan)
            if wanted is None or np.isnan(found):
                continue
            better = max if name in MORE else min
            others = ("closed",) if of == "closed" else ("closed", "torn")
            limit = wanted[0] + (wanted[1] * better(rows[method][key] for method in others) if of else 0)
            met = found >= limit if name in MORE else found <= limit
            print(f"{key:12}{limit:12,.2f}{found:12,.2f}{'' if met else '  missed'}")
