#!/usr/bin/env python3
"""Writes tests/data/adapters/nf4.safetensors: what bitsandbytes (0.50, on the CPU) makes of some matrices.

golden_nf4.py [OUTPUT]

A case `name` has `name.input` (f32, `[rows, columns]`; the case `large` is made by `draw`, which tests/adapters.rs repeats) and
  name.codes, name.absmax, name.values             NF4 with plain statistics
  name.nested_codes, name.nested_absmax, name.nested_offset, name.nested_values    NF4 with double quantisation
  name.int8_codes, name.int8_absmax, name.int8_values     LLM.int8's rows (codes as unsigned bytes)
`map` has the 256 values of the dynamic type. Matrices are quantised flat: the kernel of bitsandbytes 0.50 for processors with AVX-512
reads wrong statistics where a row's length is a multiple of 16 but not of 64.
"""

import os
import sys
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import bitsandbytes.functional as F
import numpy as np
import torch
from safetensors.numpy import save_file

torch.set_num_threads(1)


def draw(count: int, seed: int) -> np.ndarray:
    """Values that every language draws alike: the high 24 bits of a linear congruential generator, cubed."""
    state, out = seed, np.empty(count, dtype=np.float32)
    for i in range(count):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        value = np.float32((state >> 40) - 2**23) / np.float32(2**23)
        out[i] = value * value * value
    return out


def ties() -> np.ndarray:
    """Two blocks: every middle of two codes (exact, the maximum is one) and the values just beside it, with both signs of one."""
    code = F.get_4bit_type("nf4", device="cpu").numpy()
    middles = ((code[:-1] + code[1:]) / np.float32(2)).astype(np.float32)
    up, down = np.nextafter(middles, np.float32(2)), np.nextafter(middles, np.float32(-2))
    first = np.concatenate([middles, up, down, code, [-1.0, 1.0, 0.0]]).astype(np.float32)[:64]
    return np.stack([first, (first * np.float32(0.37)).astype(np.float32)])


def extremes() -> np.ndarray:
    """Blocks of zeros, of one value, of the largest and the smallest numbers."""
    blocks = np.zeros((9, 64), dtype=np.float32)
    blocks[1, 5] = 3.4e38
    blocks[1, 6] = -1e38
    blocks[2] = 1e-30
    blocks[3, ::2] = -1e-37
    blocks[4] = draw(64, 5) * np.float32(1e-39)  # below the smallest number that bitsandbytes divides by
    blocks[5] = -2.5
    blocks[6] = draw(64, 6)
    blocks[6, 0] = 1e30
    blocks[7] = draw(64, 7)
    return blocks


def halves() -> np.ndarray:
    """Rows whose values lie as near to the middle of two 8-bit codes as f32 can, so that the last bit of the scale shows."""
    absmax = np.abs(draw(24, 8)) + np.float32(0.01)
    steps = (np.arange(47, dtype=np.float32) * np.float32(2.5) + np.float32(0.5)).astype(np.float32)
    rows = (steps[None, :] * absmax[:, None] / np.float32(127)).astype(np.float32)
    return np.concatenate([rows, absmax[:, None]], axis=1).astype(np.float32)


def quantized(matrix: np.ndarray) -> dict[str, np.ndarray]:
    flat = torch.from_numpy(matrix.reshape(-1).copy())
    out = {}
    codes, state = F.quantize_4bit(flat, quant_type="nf4", compress_statistics=False)
    out["codes"], out["absmax"] = codes.reshape(-1), state.absmax
    out["values"] = F.dequantize_4bit(codes, state)
    codes, state = F.quantize_4bit(flat, quant_type="nf4", compress_statistics=True)
    assert torch.equal(codes.reshape(-1), out["codes"])
    out["nested_codes"], out["nested_absmax"] = state.absmax, state.state2.absmax
    out["nested_offset"] = state.offset.reshape(1)
    out["nested_values"] = F.dequantize_4bit(codes, state)
    codes, absmax, _ = F.int8_vectorwise_quant(torch.from_numpy(matrix.copy()))
    out["int8_codes"], out["int8_absmax"] = codes.view(torch.uint8), absmax
    out["int8_values"] = F.int8_vectorwise_dequant(codes, absmax)
    return {name: tensor.numpy().reshape(-1).copy() for name, tensor in out.items()}


def main() -> int:
    default = Path(__file__).parent.parent / "data/adapters/nf4.safetensors"
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    cases = {
        "one": draw(1, 1).reshape(1, 1),
        "odd": draw(7 * 33, 2).reshape(7, 33),
        "partial": draw(9 * 80, 3).reshape(9, 80),
        "ties": ties(),
        "extremes": extremes(),
        "halves": halves(),
        "large": draw(200 * 192, 4).reshape(200, 192),
    }
    tensors = {"map": F.create_dynamic_map().numpy()}
    for name, matrix in cases.items():
        if name != "large":
            tensors[f"{name}.input"] = matrix
        for key, value in quantized(matrix).items():
            if name == "large" and key in ("values", "int8_values", "int8_codes"):
                continue  # covered by the small ones
            tensors[f"{name}.{key}"] = value
    # What the last bits of 38,400 values are is told by 600: one of each block.
    tensors["large.nested_values"] = tensors["large.nested_values"][::64]
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, path)
    print(f"{path}: {len(tensors)} tensors, {path.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
