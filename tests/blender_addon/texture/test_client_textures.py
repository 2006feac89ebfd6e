"""A texture by a real backend process, through the add-on's client."""

import time

import numpy as np
import pytest
import trimesh
from decoding import decoded
from texturing_shapes import unwrapped

from panoform.blender_addon.backend.client import Client
from panoform.shared.engines import EngineSettings
from panoform.shared.jobs.texture import TextureReply, TextureRequest, TextureSettings
from panoform.shared.protocol import messages

PATIENCE_S = 120


@pytest.fixture
def client(connection):
    client = Client(connection)
    yield client
    client.close()


def until_reply(client: Client, job: str) -> list[messages.Message]:
    received, end = [], time.monotonic() + PATIENCE_S
    while not (received and isinstance(received[-1], messages.Reply)):
        assert time.monotonic() < end, received
        received += [message for message in client.poll() if message.id == job]
        time.sleep(0.01)
    return received


@pytest.mark.slow
def test_texture_comes_with_progress_and_previews_and_can_be_cancelled(client, tiny_sd21, multiview_adapters):
    mesh = unwrapped(trimesh.creation.icosphere(1))
    reference = np.full((32, 32, 4), (200, 40, 30, 255), np.uint8)
    reference[:4, :, 3] = 0
    engine = EngineSettings(engine="multiview", model=str(tiny_sd21), adapters=str(multiview_adapters))

    def request(steps: int) -> TextureRequest:
        return TextureRequest(
            **{name: getattr(mesh, name).astype(np.float32) for name in ("corners", "normals", "uv")},
            reference=reference,
            engine=engine,
            settings=TextureSettings(view_size=64, texture_size=128, num_inference_steps=steps),
        )

    *events, reply = until_reply(client, client.submit(request(3)))
    assert isinstance(reply, TextureReply), reply
    assert decoded(reply.texture).shape == (128, 128, 3)
    assert any(isinstance(event, messages.PreviewEvent) and event.map == "views" for event in events)
    steps = [event.step for event in events if isinstance(event, messages.ProgressEvent) and event.stage == "Views"]
    assert steps == [0, 1, 2, 3]

    job = client.submit(request(200))
    while not any(isinstance(m, messages.ProgressEvent) and m.stage == "Views" for m in client.poll()):
        time.sleep(0.01)
    client.cancel(job)
    assert getattr(until_reply(client, job)[-1], "code", "") == "cancelled"
