"""Circular padding: rolling the input rolls the output, which fails without circular padding."""

from pathlib import Path

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

from panoform.backend.pipelines.layers import circular_padding

GOLDEN = Path(__file__).parents[3] / "golden"


def vae_of_scale_8() -> AutoencoderKL:
    return AutoencoderKL.from_pretrained(GOLDEN / "tiny-flux", subfolder="vae")


def vae_of_scale_4(mid_block_add_attention: bool = True) -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=(8, 8, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=16,
        norm_num_groups=4,
        mid_block_add_attention=mid_block_add_attention,
    ).eval()


@pytest.fixture(params=[vae_of_scale_8, vae_of_scale_4])
def vae(request) -> AutoencoderKL:
    return request.param().requires_grad_(False)


def encode(vae: AutoencoderKL, image: torch.Tensor) -> torch.Tensor:
    return vae.encode(image).latent_dist.mode()


def test_extend_repeats_the_left_edge():
    x = torch.randn(2, 16, 4, 12)
    extended = circular_padding.extend(x)
    assert extended.shape == (2, 16, 4, 18)
    assert torch.equal(extended[..., 12:], x[..., :6])
    torch.testing.assert_close(circular_padding.close(extended), x)


def test_blend_weights_equal_the_references():
    x = torch.zeros(1, 1, 1, 18)
    x[..., 12:] = 1
    blended = circular_padding.blend(x)[0, 0, 0]
    assert blended[:6].tolist() == pytest.approx([1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])
    assert torch.equal(blended[6:], x[0, 0, 0, 6:])


def test_close_leaves_no_step_at_the_seam():
    ramp = torch.arange(30.0)[None, None, None]  # as from a denoiser without wrapping: 24 columns and 6 more
    cut, closed = ramp[..., :24], circular_padding.close(ramp)
    assert abs(cut[..., 0] - cut[..., -1]) == 23
    assert abs(closed[..., 0] - closed[..., -1]) == 1  # as between any two columns of the ramp


@pytest.mark.parametrize("columns", [1, 3, 8])
def test_circular_encoding_commutes_with_rolling(vae, columns):
    scale = 2 ** (len(vae.config.block_out_channels) - 1)
    image = torch.randn(1, 3, 4 * scale, 16 * scale, generator=torch.Generator().manual_seed(1))

    def difference() -> float:
        rolled = encode(vae, image.roll(columns * scale, -1)).roll(-columns, -1)
        return (rolled - encode(vae, image)).abs().max().item()

    with circular_padding.circular(vae):
        assert difference() < 1e-4
    assert difference() > 1e-2


@pytest.mark.parametrize("columns", [1, 3, 8])
def test_circular_decoding_commutes_with_rolling(vae, columns):
    scale = 2 ** (len(vae.config.block_out_channels) - 1)
    latents = torch.randn(1, 16, 4, 16, generator=torch.Generator().manual_seed(1))

    def difference() -> float:
        rolled = vae.decode(latents.roll(columns, -1)).sample.roll(-columns * scale, -1)
        return (rolled - vae.decode(latents).sample).abs().max().item()

    with circular_padding.circular(vae):
        assert difference() < 1e-4
    assert difference() > 1e-2


def test_circular_changes_only_latents_near_the_seam():
    """Away from the seam, latents are unchanged: neither the vertical padding nor the interior is affected."""
    # Norms and attention depend on the whole picture; without them, only the receptive field reaches the edge.
    vae = vae_of_scale_4(mid_block_add_attention=False)
    for name, module in list(vae.encoder.named_modules()):
        if isinstance(module, torch.nn.GroupNorm):
            parent, _, child = name.rpartition(".")
            setattr(vae.encoder.get_submodule(parent), child, torch.nn.Identity())
    image = torch.randn(1, 3, 16, 256)
    with torch.no_grad():
        plain = vae.encoder(image)
        with circular_padding.circular(vae):
            circular = vae.encoder(image)
    torch.testing.assert_close(circular[..., 24:-24], plain[..., 24:-24])
    assert not torch.allclose(circular[..., :1], plain[..., :1], atol=1e-3)
    assert not torch.allclose(circular[..., -1:], plain[..., -1:], atol=1e-3)


@pytest.mark.parametrize("band", [100, 3000])
def test_bands_change_nothing(vae, band, monkeypatch):
    """Against torch's own convolution of the whole, and one of the picture padded around the seam."""
    image = torch.randn(1, 3, 32, 64, generator=torch.Generator().manual_seed(2))
    plain = encode(vae, image), vae.decode(encode(vae, image)).sample
    with circular_padding.circular(vae):
        closed = encode(vae, image), vae.decode(encode(vae, image)).sample
    monkeypatch.setattr(circular_padding, "BAND", band)
    with circular_padding.in_bands(vae):
        torch.testing.assert_close((encode(vae, image), vae.decode(plain[0]).sample), plain, atol=1e-5, rtol=1e-4)
    with circular_padding.circular(vae):
        torch.testing.assert_close((encode(vae, image), vae.decode(closed[0]).sample), closed, atol=1e-5, rtol=1e-4)


def test_vae_is_restored_afterwards(vae):
    image = torch.randn(1, 3, 32, 64)
    before = encode(vae, image)
    vae.enable_tiling()
    with circular_padding.circular(vae):
        assert not vae.use_tiling
    with pytest.raises(RuntimeError), circular_padding.circular(vae):
        vae.encode(image[:, :2])
    assert vae.use_tiling
    vae.disable_tiling()
    assert torch.equal(encode(vae, image), before)


def test_decode_blended_returns_the_size_of_the_picture(vae):
    scale = 2 ** (len(vae.config.block_out_channels) - 1)

    def decode(latents):
        return vae.decode(latents, return_dict=False)[0]

    image = circular_padding.decode_blended(decode, torch.randn(1, 16, 4, 8), scale)
    assert image.shape == (1, 3, 4 * scale, 8 * scale)
