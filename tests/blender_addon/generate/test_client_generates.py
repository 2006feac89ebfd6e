"""Generate and edit requests through the client (see also test_client.py)."""

import time

import msgspec
import numpy as np
import pytest
from decoding import decoded

from panoform.blender_addon.backend.client import Client
from panoform.shared.jobs.edit import EditRequest
from panoform.shared.jobs.generate import GenerateReply, GenerateRequest, GenerateSettings, View
from panoform.shared.protocol import messages
from panoform.shared.protocol.errors import ProtocolError

PATIENCE_S = 180


@pytest.fixture
def client(connection):
    client = Client(connection)
    yield client
    client.close()


@pytest.fixture(scope="module")
def settings(tiny_lora):
    return GenerateSettings(
        prompt="a yard", lora=str(tiny_lora), height=256, num_inference_steps=2, seeds=(3,), measure_light=False
    )


def until_reply(client: Client, job: str) -> list[messages.Message]:
    received, end = [], time.monotonic() + PATIENCE_S
    while not (received and received[-1].id == job and isinstance(received[-1], messages.Reply)):
        assert time.monotonic() < end, received
        received += [message for message in client.poll() if message.id == job]
        time.sleep(0.01)
    return received


@pytest.mark.slow
def test_prompt_picture_and_edit_return_panoramas(client, flux, settings) -> None:
    both = msgspec.structs.replace(settings, seeds=(1, 2))
    *events, reply = until_reply(client, client.submit(GenerateRequest(engine=flux, settings=both)))
    assert isinstance(reply, GenerateReply), reply
    assert {type(event) for event in events} == {messages.QueuedEvent, messages.ProgressEvent, messages.PreviewEvent}
    assert any(isinstance(event, messages.PreviewEvent) and event.map == "panorama" for event in events)
    assert [one.recipe.settings.seeds for one in reply.panoramas] == [(1,), (2,)]
    assert [decoded(one.data).shape for one in reply.panoramas] == [(256, 512, 3)] * 2
    panorama, recipe = decoded(reply.panoramas[0].data), reply.panoramas[0].recipe
    assert (recipe.kind, recipe.encoding, recipe.settings.prompt) == ("words", "linear", "a yard")

    picture = np.random.default_rng(0).random((32, 48, 3), np.float32)
    view = View(fov=70, yaw=30, pitch=10)
    (*_, completed) = until_reply(
        client,
        client.submit(GenerateRequest(picture=picture, view=view, source="fotö.jpg", engine=flux, settings=settings)),
    )
    assert (completed.panoramas[0].recipe.kind, completed.panoramas[0].recipe.view) == ("picture", view)
    assert completed.panoramas[0].recipe.source == "fotö.jpg"

    mask = np.zeros((256, 512, 1), np.uint8)
    mask[100:140, 10:60] = 1
    options = {"encoding": "linear", "source": "p", "engine": flux, "settings": settings}
    edit = EditRequest(panorama=panorama, mask=mask, turn=(0, 10, -20), **options)
    (*_, edited) = until_reply(client, client.submit(edit))
    outside = mask[..., 0] == 0
    after = decoded(edited.panoramas[0].data)
    assert edited.panoramas[0].recipe.turn == (0, 10, -20)
    assert np.array_equal(after[outside], panorama[outside])
    assert not np.array_equal(after, panorama)
    (*_, varied) = until_reply(client, client.submit(EditRequest(panorama=panorama, strength=0.5, **options)))
    assert varied.panoramas[0].recipe.strength == 0.5


@pytest.mark.slow
def test_rejected_request_returns_an_error(client, flux, settings) -> None:
    black = np.zeros((256, 512, 3), np.float32)
    mask = np.zeros((255, 512, 1), np.uint8)
    (*_, rejected) = until_reply(
        client,
        client.submit(EditRequest(panorama=black, encoding="linear", mask=mask, engine=flux, settings=settings)),
    )
    assert (rejected.code, "512 × 255" in rejected.message) == ("panorama", True)


@pytest.mark.slow
def test_picture_that_cannot_be_sent_is_rejected_by_the_client(client, flux, settings) -> None:
    with pytest.raises(ProtocolError, match="float64"):
        client.submit(GenerateRequest(picture=np.zeros((8, 8, 3)), view=View(fov=60), engine=flux, settings=settings))
