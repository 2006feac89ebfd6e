"""Metrics of maps compared with ground truth, and the baselines."""

import json

import numpy as np
import pytest

from panoform.backend.cli import main
from panoform.backend.evaluation import evaluate, ground_truth
from panoform.backend.training.scenes.render_io import write_image
from panoform.shared.imaging import sphere
from panoform.shared.protocol.errors import InputError

HEIGHT = 64


@pytest.fixture
def truth() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    maps = {
        name.partition(".")[0]: rng.uniform(0.2, 0.8, (HEIGHT, 2 * HEIGHT, c)) for name, c in ground_truth.FILES.items()
    }
    maps["distance"] *= 10
    maps["normal"] = -sphere.directions(HEIGHT, 2 * HEIGHT).astype(float)
    maps["distance"][:5] = np.inf
    maps["normal"][:5] = 0
    return {name: pixels.astype(np.float32) for name, pixels in maps.items()}


def write(folder, maps) -> None:
    folder.mkdir(parents=True)
    for name in ground_truth.FILES:
        kind = "float" if name.endswith("exr") else "uint16"
        write_image(folder / name, maps[name.partition(".")[0]], kind)


def test_ground_truth_has_the_best_metrics(truth):
    made = truth | {"distance": np.where(np.isfinite(truth["distance"]), truth["distance"] * 7, 1)}
    metrics = evaluate.measure(made, truth)
    assert metrics["distance AbsRel"] == pytest.approx(0, abs=1e-5)
    assert metrics["distance δ1.25"] == 1
    assert metrics["normal mean"] == pytest.approx(0, abs=0.1)
    assert metrics["albedo PSNR"] == metrics["metallic PSNR"] == 50
    assert metrics["semantic accuracy"] == 1


def test_known_errors_give_known_metrics(truth):
    angle = np.radians(10.0)
    up = np.array([0, 0, 1.0])
    facing = truth["normal"]
    side = np.cross(facing, up)
    side /= np.maximum(np.linalg.norm(side, axis=-1, keepdims=True), 1e-9)
    surface = np.isfinite(truth["distance"])
    distance = np.where(surface, truth["distance"], 1.0)
    # Some pixels are 1.5 times too far.
    wrong = np.zeros_like(surface)
    wrong[8:16, :48] = True
    made = {
        "distance": np.where(wrong, 1.5 * distance, distance),
        "normal": facing * np.cos(angle) + side * np.sin(angle),
        "albedo": truth["albedo"] + 0.1,
    }
    metrics = evaluate.measure(made, truth)
    share = wrong.sum() / surface.sum()
    assert metrics["distance AbsRel"] == pytest.approx(0.5 * share, rel=1e-5)
    assert metrics["distance δ1.25"] == pytest.approx(1 - share)
    assert metrics["normal mean"] == pytest.approx(10, abs=1e-3)
    assert metrics["albedo PSNR"] == pytest.approx(20, abs=1e-4)


def test_maps_of_another_size_are_resized(truth):
    """The ground truth is recovered exactly from twice its size, and approximately from 1.5 times its size."""
    maps = {name: truth[name] for name in ("albedo", "normal", "semantic")}
    maps["normal"] = -sphere.directions(HEIGHT, 2 * HEIGHT)
    maps["distance"] = np.where(np.isfinite(truth["distance"]), truth["distance"], 1)
    twice = {name: pixels.repeat(2, 0).repeat(2, 1) for name, pixels in maps.items()}
    for name, pixels in evaluate.fitted(twice, HEIGHT).items():
        np.testing.assert_allclose(pixels, maps[name], rtol=1e-5, atol=1e-6)
    rays = sphere.directions(96, 192)
    smooth = {"distance": np.exp(rays[..., :1] + 2), "normal": -rays}
    known = sphere.directions(HEIGHT, 2 * HEIGHT)
    made = evaluate.fitted(smooth, HEIGHT)
    np.testing.assert_allclose(made["distance"], np.exp(known[..., :1] + 2), rtol=0.02)
    metrics = evaluate.measure(made, {"distance": np.exp(known[..., :1] + 2), "normal": -known})
    assert metrics["normal mean"] < 0.5


def test_distances_are_averaged_as_logarithms():
    distance = np.array([1.0, 100.0]).reshape(1, 2, 1).repeat(2, 0).repeat(2, 1)  # (2, 4, 1)
    made = evaluate.fitted({"distance": np.roll(distance, 1, axis=1)}, 1)["distance"]
    np.testing.assert_allclose(made, 10.0)


def test_step_at_the_seam_is_measured():
    smooth = np.ones((HEIGHT, 2 * HEIGHT, 1)) + 0.1 * np.sin(np.arange(2 * HEIGHT) / HEIGHT * np.pi)[:, None]
    with_step = smooth * np.linspace(1, 2, 2 * HEIGHT)[:, None]
    smooth_maps = {"distance": smooth, "normal": np.ones((HEIGHT, 2 * HEIGHT, 3))}
    assert evaluate.measure({"distance": smooth}, smooth_maps)["seam step"] < 2
    assert evaluate.measure({"distance": with_step}, smooth_maps)["seam step"] > 20


def test_mean_map_of_rotationally_symmetric_rooms_equals_the_rooms(truth, tmp_path, monkeypatch):
    truth["distance"] = np.broadcast_to(np.linspace(1, 3, HEIGHT)[:, None, None], (HEIGHT, 2 * HEIGHT, 1))
    truth["normal"] = -sphere.directions(HEIGHT, 2 * HEIGHT)
    truth["albedo"] = np.full((HEIGHT, 2 * HEIGHT, 3), 0.25)
    file = tmp_path / "mean_maps.json"
    file.write_text(json.dumps(evaluate.mean_by_latitude([truth, truth])), encoding="utf-8")
    monkeypatch.setattr(evaluate, "MEAN_FILE", file)
    mean = evaluate.baselines(HEIGHT)["mean map"]
    np.testing.assert_allclose(mean["distance"], truth["distance"], rtol=0.02)
    np.testing.assert_allclose(mean["normal"], truth["normal"], atol=0.03)
    assert evaluate.measure(mean, truth)["albedo PSNR"] == 50


def test_scene_folder_is_read_back(truth, tmp_path):
    write(tmp_path / "scenes" / "räum 1", truth)
    (found,) = ground_truth.scenes(tmp_path / "scenes", HEIGHT)
    read = ground_truth.read_scene(found)
    for name, pixels in truth.items():
        np.testing.assert_allclose(read[name], pixels, atol=1e-4)


def damage_missing(scene):
    (scene / "normal.exr").unlink()


def damage_size(scene):
    write_image(scene / "normal.exr", np.zeros((HEIGHT, 2 * HEIGHT + 2, 3)), "float")


def damage_channels(scene):
    write_image(scene / "normal.exr", np.zeros((HEIGHT, 2 * HEIGHT, 1)), "float")


def damage_content(scene):
    (scene / "normal.exr").write_bytes(b"not an image")


@pytest.mark.parametrize("damage", [damage_missing, damage_size, damage_channels, damage_content])
def test_invalid_file_is_named_in_the_error(damage, truth, tmp_path):
    for name in ("a", "b"):
        write(tmp_path / "data" / name, truth)
    damage(tmp_path / "data" / "b")
    with pytest.raises(InputError, match=r"b[/\\]normal\.exr"):
        ground_truth.scenes(tmp_path / "data")


def test_other_height_and_empty_folder_are_rejected(truth, tmp_path):
    write(tmp_path / "data" / "a", truth)
    with pytest.raises(InputError, match="not 256 × 128"):
        ground_truth.scenes(tmp_path / "data", 128)
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="no scenes"):
        ground_truth.scenes(tmp_path / "none")


@pytest.mark.slow
def test_command_evaluates_the_starter(truth, tmp_path, capsys):
    write(tmp_path / "data" / "a", truth)
    assert (
        main.main(
            ["evaluate", "--data", str(tmp_path / "data"), "--maps", "distance,albedo", "--height", "128", "--json"]
        )
        == 0
    )
    output = json.loads(capsys.readouterr().out)
    assert set(output["columns"]) == {"starter", "mean map", "constant", "truth"}
    assert set(output["columns"].pop("truth")) == {"seam step"}
    metrics = {"distance AbsRel", "distance δ1.25", "albedo PSNR", "seam step"}
    assert all(set(column) == metrics for column in output["columns"].values())
    assert output["scenes"] == 1
    assert output["size"] == [HEIGHT, 2 * HEIGHT]
    assert output["perceived"] == [128, 256]


def test_command_reports_the_missing_file(truth, tmp_path, capsys):
    write(tmp_path / "data" / "a", truth)
    damage_missing(tmp_path / "data" / "a")
    assert main.main(["evaluate", "--data", str(tmp_path / "data")]) == 1
    assert "normal.exr is missing" in capsys.readouterr().err
