"""A port of DDPM's U-Net to Jittor as a student might write it: the solution of the exercise in the guide.

It is the module `network` of docs/jittor-reproduction.md, which a test writes into the folder of the guide.
"""

from typing import Any

import jittor as jt
from jittor import nn


def predict(spec: Any, parameters: Any, dropout: Any, x_t: Any, t: Any) -> Any:
    """Predict the noise in `x_t`, `(B, C, H, W)`, at the timesteps `t`, `(B,)`."""

    def linear(name: Any, x: Any) -> Any:
        return nn.matmul_transpose(x, parameters[f"{name}.weight"]) + parameters[f"{name}.bias"]

    def conv(name: Any, x: Any, stride: int = 1) -> Any:
        weight = parameters[f"{name}.weight"]
        if stride == 2:  # DDPM pads below and to the right
            x = nn.pad(x, [0, 1, 0, 1])
        padding = 0 if stride == 2 or weight.shape[2] == 1 else 1
        return nn.conv2d(x, weight, parameters[f"{name}.bias"], stride=stride, padding=padding)

    def norm(name: Any, x: Any) -> Any:
        grouped = x.reshape((x.shape[0], spec.num_groups, -1))
        centred = grouped - grouped.mean(2, keepdims=True)
        variance = (centred * centred).mean(2, keepdims=True)
        shape = (1, x.shape[1], 1, 1)
        normalised = (centred / jt.sqrt(variance + 1e-6)).reshape(x.shape)
        weight, bias = parameters[f"{name}.weight"], parameters[f"{name}.bias"]
        return normalised * weight.reshape(shape) + bias.reshape(shape)

    def silu(x: Any) -> Any:
        return x * x.sigmoid()

    def resnet(name: Any, x: Any) -> Any:
        hidden = conv(f"{name}.conv1", silu(norm(f"{name}.norm1", x)))
        shift = linear(f"{name}.time_emb_proj", silu(time))
        hidden = hidden + shift.reshape((*shift.shape, 1, 1))
        hidden = conv(f"{name}.conv2", dropout(silu(norm(f"{name}.norm2", hidden))))
        shortcut = conv(f"{name}.conv_shortcut", x) if f"{name}.conv_shortcut.weight" in parameters else x
        return shortcut + hidden

    def attention(name: Any, x: Any) -> Any:
        if f"{name}.to_q.weight" not in parameters:
            return x
        pixels = norm(f"{name}.group_norm", x).reshape((x.shape[0], x.shape[1], -1)).transpose(0, 2, 1)
        q, k, v = (linear(f"{name}.{part}", pixels) for part in ("to_q", "to_k", "to_v"))
        scores = nn.softmax(nn.bmm(q, k.transpose(0, 2, 1)) * x.shape[1] ** -0.5, dim=2)
        attended = linear(f"{name}.to_out.0", nn.bmm(scores, v))
        return x + attended.transpose(0, 2, 1).reshape(x.shape)

    half = spec.base_channels // 2
    frequencies = jt.array([10000.0 ** (-k / (half - 1)) for k in range(half)])
    angles = t.float32().reshape((-1, 1)) * frequencies.reshape((1, -1))
    embedding = jt.concat([angles.sin(), angles.cos()], dim=1)
    time = linear("time_embedding.linear_2", silu(linear("time_embedding.linear_1", embedding)))

    levels = len(spec.channel_multipliers)
    x = conv("conv_in", x_t)
    skips = [x]
    for level in range(levels):
        for block in range(spec.num_res_blocks):
            x = resnet(f"down_blocks.{level}.resnets.{block}", x)
            x = attention(f"down_blocks.{level}.attentions.{block}", x)
            skips.append(x)
        if level < levels - 1:
            x = conv(f"down_blocks.{level}.downsamplers.0.conv", x, stride=2)
            skips.append(x)
    x = resnet("mid_block.resnets.0", x)
    x = attention("mid_block.attentions.0", x)
    x = resnet("mid_block.resnets.1", x)
    for level in range(levels):
        for block in range(spec.num_res_blocks + 1):
            x = resnet(f"up_blocks.{level}.resnets.{block}", jt.concat([x, skips.pop()], dim=1))
            x = attention(f"up_blocks.{level}.attentions.{block}", x)
        if level < levels - 1:
            x = nn.interpolate(x, scale_factor=2, mode="nearest")
            x = conv(f"up_blocks.{level}.upsamplers.0.conv", x)
    return conv("conv_out", silu(norm("conv_norm_out", x)))
