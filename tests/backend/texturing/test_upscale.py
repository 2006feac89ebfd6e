"""The latent upscaler, with a tiny network of the real classes."""

import shutil

import pytest
import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionLatentUpscalePipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from panoform.backend.models.sd21 import checkpoints
from panoform.backend.texturing import upscale
from panoform.shared.protocol.errors import WeightsError


@pytest.fixture(scope="module")
def upscaler(tiny_sd21, tmp_path_factory):
    """Return a folder in the layout of the hub's."""
    torch.manual_seed(0)
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=190, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=1,
            bos_token_id=0, eos_token_id=1, pad_token_id=1,
        )
    )  # fmt: skip
    unet = UNet2DConditionModel(
        in_channels=8, out_channels=5, block_out_channels=(32, 32, 64, 64), norm_num_groups=None, mid_block_type=None,
        down_block_types=("KDownBlock2D", *("KCrossAttnDownBlock2D",) * 3), attention_head_dim=8,
        up_block_types=(*("KCrossAttnUpBlock2D",) * 3, "KUpBlock2D"), cross_attention_dim=32, act_fn="gelu",
        time_embedding_type="fourier", timestep_post_act="gelu", time_cond_proj_dim=128 + 32, conv_in_kernel=1,
        conv_out_kernel=1, resnet_time_scale_shift="scale_shift",
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("upscaler")
    StableDiffusionLatentUpscalePipeline(
        vae=AutoencoderKL.from_pretrained(tiny_sd21 / "vae"), text_encoder=text,
        tokenizer=CLIPTokenizer.from_pretrained(tiny_sd21 / "tokenizer"), unet=unet,
        scheduler=EulerDiscreteScheduler(prediction_type="sample"),
    ).save_pretrained(folder)  # fmt: skip
    return folder


@pytest.mark.slow
def test_views_get_the_same_noise(upscaler, tiny_sd21, reporter):
    base = checkpoints.load(checkpoints.inspect(tiny_sd21), torch.float32, reporter)
    pipeline = upscale.load(upscaler, base, torch.device("cpu"))
    assert pipeline.vae is base.vae
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)).expand(3, -1, -1, -1).clone()
    latents[2] += 1
    done = []
    result = upscale.latent(pipeline, latents, 7, lambda: done.append(1))
    assert result.shape == (3, 4, 16, 16)
    assert len(done) == 3
    assert torch.isfinite(result).all()
    assert torch.equal(result[0], result[1])
    assert not torch.equal(result[0], result[2])


@pytest.mark.slow
def test_incomplete_upscaler_is_refused(upscaler, tiny_sd21, reporter, tmp_path):
    copy = shutil.copytree(upscaler, tmp_path / "copy")
    file = copy / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({key: tensor for key, tensor in load_file(file).items() if key != "conv_in.bias"}, file)
    base = checkpoints.load(checkpoints.inspect(tiny_sd21), torch.float32, reporter)
    with pytest.raises(WeightsError, match="1 tensors missing"):
        upscale.load(copy, base, torch.device("cpu"))


def test_bicubic_doubles_the_size():
    images = torch.rand(2, 3, 16, 16)
    assert upscale.bicubic(images).shape == (2, 3, 32, 32)
    flat = torch.full((1, 3, 8, 8), 0.3)
    torch.testing.assert_close(upscale.bicubic(flat), torch.full((1, 3, 16, 16), 0.3))
