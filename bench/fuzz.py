"""Feed what comes from elsewhere with mutated content, led by coverage: python bench/fuzz.py [--minutes 5] [TARGET …]

    wire          messages of a client, as one frame of header and one of arrays
    images        headers of pictures: what decoding needs, and what they say of their pixels
    exif          EXIF data
    json          recipes, records, connection files, and PEFT's configurations
    safetensors   files of weights
    pixels        pictures that are decoded by the command line's reader

Each target may raise errors of Panoform's own only; any other exception, a crash, more than 3 GB or 20 s for one input
ends with an exit code of 1, and the input is written to --findings. New inputs are kept in --corpus, from which a later
run goes on; a few of them are in tests/golden/fuzz, which the tests replay. Needs atheris (pip install atheris).
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
CORPUS = ROOT / "tests" / "golden" / "fuzz"
MAX_BYTES = 4096
_LIMITS = ("-rss_limit_mb=3000", "-timeout=20", f"-max_len={MAX_BYTES}", "-verbosity=1", "-print_final_stats=1")


def _own() -> contextlib.AbstractContextManager[None]:
    from panoform.shared.protocol.errors import PanoformError

    return contextlib.suppress(PanoformError)


def wire(data: bytes) -> None:
    from panoform.shared.protocol import wire

    size = int.from_bytes(data[:2], "little")
    frames = [data[2 : 2 + size], *([data[2 + size :]] if len(data) > 2 + size else [])]
    for decode in (wire.decode_request, wire.decode_answer):
        with _own():
            decode(frames)
    wire.read_id(frames)


def images(data: bytes) -> None:
    from panoform.shared.imaging import headers
    from panoform.shared.picture_files import exr, reading

    for name in ("a.exr", "a.tga"):
        with _own():
            headers.check_bytes(data, name)
            for is_panorama in (True, False):
                with _own():
                    found = reading.read(data, name, is_panorama=is_panorama)
                    if found.layer is not None:
                        exr.extract(data, found.layer)
    exr.layer_names(data)  # pyright: ignore[reportArgumentType]


def exif(data: bytes) -> None:
    from panoform.shared.picture_files import exif

    exif.read(data)


def json(data: bytes) -> None:
    from panoform.backend.models import lora_file
    from panoform.shared import json_file
    from panoform.shared.jobs.generate import Recipe
    from panoform.shared.jobs.perceive import Info
    from panoform.shared.protocol.connection import Connection

    for kind in (Recipe, Info, Connection, dict[str, int]):
        with contextlib.suppress(ValueError):
            json_file.decode(data, kind)
    with _own():
        lora_file.check_config(lora_file.read_config(data.decode("latin-1"), "a"), "a")


def safetensors(data: bytes) -> None:
    from panoform.backend.models import weights

    with _file(data, "a.safetensors") as path, _own():
        weights.load(path)


def pixels(data: bytes) -> None:
    from panoform.backend.io import panoramas

    with _file(data, "a") as path, _own():
        panoramas.read(path)


@contextlib.contextmanager
def _file(data: bytes, name: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=_in_memory()) as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        yield path


def _in_memory() -> str | None:
    """Return Linux's folder of files in memory; None elsewhere: the usual one."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


TARGETS: dict[str, Callable[[bytes], None]] = {
    "wire": wire, "images": images, "exif": exif, "json": json, "safetensors": safetensors, "pixels": pixels,
}  # fmt: skip


def seeds(target: str) -> list[Path]:
    """Return the inputs that the repository has for a target; the decoder's are those of the headers."""
    return sorted((CORPUS / ("images" if target == "pixels" else target)).iterdir())


def fuzz(target: str, arguments: list[str]) -> None:
    """Run a target in this process, which libFuzzer ends."""
    import atheris

    with atheris.instrument_imports(include=["panoform"], enable_loader_override=False):
        for seed in seeds(target):  # imports what it calls
            TARGETS[target](seed.read_bytes())
    atheris.Setup([sys.argv[0], *arguments], TARGETS[target])
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", choices=[*TARGETS, []], metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--minutes", type=float, default=5, help="for all targets together (default: 5)")
    parser.add_argument("--corpus", type=Path, default=Path("fuzz"), help="folder of inputs that are kept")
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"), help="folder of inputs that fail")
    parser.add_argument("--here", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args()
    targets = options.targets or list(TARGETS)
    if options.here is not None:
        fuzz(targets[0], options.here)
    failed = []
    for target in targets:
        corpus, findings = options.corpus / target, options.findings / target
        for folder in (corpus, findings):
            folder.mkdir(parents=True, exist_ok=True)
        for seed in seeds(target):
            shutil.copy(seed, corpus / seed.name)
        seconds = max(round(60 * options.minutes / len(targets)), 1)
        command = [sys.executable, __file__, target, "--here", *_LIMITS, f"-max_total_time={seconds}"]
        if subprocess.run([*command, f"-artifact_prefix={findings}/", str(corpus)], check=False).returncode:
            failed.append(target)
        print(f"{target}: {'failed' if target in failed else 'nothing found'} in {seconds} s", flush=True)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
