"""A timm ViT's forward pass on its own weights, for a tower that reads out the class token only.

Patch dropout chooses before the patches are embedded, per sample (dropout.py); the last block is computed for the class
token alone; any first blocks can be recomputed in the backward pass. Features and gradients are those of the usual way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from open_clip.timm_model import TimmModel
from timm.layers.attention import Attention
from timm.layers.patch_dropout import PatchDropout as TimmPatchDropout
from timm.layers.patch_embed import PatchEmbed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from biomedray.model.attention import attend_first
from biomedray.model.dropout import SampledPatchDropout, kept_patches, random_keys

Layer = Callable[[Any, torch.Tensor], torch.Tensor]


def supports(visual: nn.Module) -> bool:
    """Whether this is such a ViT; any other goes the usual way."""
    if not isinstance(visual, TimmModel) or type(visual.trunk) is not VisionTransformer:
        return False
    trunk: Any = visual.trunk
    class_token = trunk.global_pool == "token" and trunk.attn_pool is None and trunk.cls_token is not None
    plain = trunk.reg_token is None and trunk.pos_embed is not None and not trunk.dynamic_img_size and trunk.pos_drop.p == 0
    return class_token and plain and _plain_patches(trunk) and _plain_block(trunk.blocks[-1])


def _plain_patches(trunk: Any) -> bool:
    embed = trunk.patch_embed
    if type(embed) is not PatchEmbed or embed.dynamic_img_pad or not isinstance(embed.norm, nn.Identity) or not embed.flatten:
        return False
    dropout = isinstance(trunk.patch_drop, nn.Identity | TimmPatchDropout | SampledPatchDropout)
    return dropout and embed.proj.stride == embed.proj.kernel_size and embed.proj.padding == (0, 0)


def _plain_block(block: Any) -> bool:
    if type(block) is not Block or type(block.attn) is not Attention:
        return False
    own = block.attn
    identities = (own.q_norm, own.k_norm, own.norm, block.drop_path1, block.drop_path2)
    return all(isinstance(part, nn.Identity) for part in identities) and own.gate is None and own.attn_drop.p == 0


def layers(visual: Any) -> int:
    """Blocks that can be recomputed: all but the last."""
    return len(visual.trunk.blocks) - 1


def encode(
    visual: Any, pixels: torch.Tensor, keys: torch.Tensor | None = None, recomputed: int = 0, run: Layer | None = None
) -> torch.Tensor:
    """[n, 3, S, S] -> [n, D] features, not normalised; ``keys`` [n] decide which patches stay while training.

    ``run`` is ``layer`` or what a compiler made of it.
    """
    run = run or layer
    trunk = visual.trunk
    tokens = trunk.norm_pre(_embed(trunk, pixels, keys))
    for number, block in enumerate(trunk.blocks[:-1]):
        if number < recomputed and torch.is_grad_enabled():
            tokens = checkpoint(run, block, tokens, use_reentrant=False)
        else:
            tokens = run(block, tokens)
    first = trunk.norm(_last(trunk.blocks[-1], tokens))[:, 0]
    result: torch.Tensor = visual.head(trunk.head(trunk.head_drop(trunk.fc_norm(first))))
    return result


def layer(block: Any, tokens: torch.Tensor) -> torch.Tensor:
    """[n, l, D] -> [n, l, D] through one block."""
    result: torch.Tensor = block(tokens)
    return result


def _embed(trunk: Any, pixels: torch.Tensor, keys: torch.Tensor | None) -> torch.Tensor:
    """[n, 1 + kept, D]: class token and patches with their positions."""
    prob = getattr(trunk.patch_drop, "prob", 0.0) if trunk.training else 0.0
    skip = 0 if trunk.no_embed_class else 1
    positions = trunk.pos_embed[:, skip:]
    if prob:
        keys = random_keys(len(pixels), pixels.device) if keys is None else keys
        kept = kept_patches(keys, trunk.patch_embed.num_patches, prob)
        patches = _embed_kept(trunk.patch_embed.proj, pixels, kept) + positions[0][kept]
    else:
        patches = trunk.patch_embed(pixels) + positions
    first = trunk.cls_token if trunk.no_embed_class else trunk.cls_token + trunk.pos_embed[:, :1]
    return torch.cat([first.expand(patches.shape[0], -1, -1), patches], dim=1)


def _embed_kept(convolution: Any, pixels: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """The convolution of the kept patches only, as a product."""
    high, wide = convolution.kernel_size
    count, channels, height, width = pixels.shape
    grid = pixels.view(count, channels, height // high, high, width // wide, wide).permute(0, 2, 4, 1, 3, 5)
    rows = torch.arange(count, device=pixels.device)[:, None]
    columns = width // wide
    patches = grid[rows, kept // columns, kept % columns].flatten(2)
    return functional.linear(patches, convolution.weight.flatten(1), convolution.bias)


def _last(block: Any, tokens: torch.Tensor) -> torch.Tensor:
    """[n, l, D] -> [n, 1, D]: the class token after the block."""
    own = block.attn
    normed = block.norm1(tokens)
    query, key, value = _projections(own.qkv)
    asked = functional.linear(normed[:, 0], *query).view(tokens.shape[0], own.num_heads, own.head_dim)
    gathered = attend_first(normed, asked, key, value, None, 0.0, None, 0)[:, None]
    first = tokens[:, :1] + block.ls1(own.proj_drop(own.proj(gathered)))
    result: torch.Tensor = first + block.ls2(block.mlp(block.norm2(first)))
    return result


def _projections(qkv: Any) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
    """Weight and bias of query, key and value."""
    biases = (None,) * 3 if qkv.bias is None else qkv.bias.chunk(3)
    return list(zip(qkv.weight.chunk(3), biases, strict=True))
