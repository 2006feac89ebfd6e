"""The token layout compared with diffusers' FluxPipeline."""

import torch
from diffusers import FluxPipeline

from panoform.backend.pipelines.layers.latents import image_ids, pack, unpack


def test_tokens_equal_those_of_diffusers():
    latents = torch.randn(2, 16, 6, 10)
    tokens = pack(latents)
    assert torch.equal(tokens, FluxPipeline._pack_latents(latents, 2, 16, 6, 10))
    assert tokens.is_contiguous()
    assert torch.equal(unpack(tokens, 3), latents)
    assert torch.equal(unpack(tokens, 3), FluxPipeline._unpack_latents(tokens, 6, 10, vae_scale_factor=1))


def test_position_ids_equal_those_of_diffusers():
    cpu = torch.device("cpu")
    assert torch.equal(image_ids(3, 5, cpu), FluxPipeline._prepare_latent_image_ids(1, 3, 5, cpu, torch.float32))
