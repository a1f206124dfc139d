#!/usr/bin/env python3
"""How fast a peer encodes: encode.py MODEL_DIR TEXTS.jsonl [--engine torch|onnx|openvino] [--dtype f32|bf16] [--graph GRAPH.onnx]
[--output OUT.npy] -> one JSON line. encode.py MODEL_DIR --export GRAPH.onnx writes the graph that onnx and openvino run.

torch is sentence-transformers as it comes. onnx (ONNX Runtime, f32) and openvino run the exported encoder (ids and mask to token
embeddings, batch and length free); tokenizing, sorting by length, padding to the longest of the batch, mean pooling and normalising are
done here. These two get what was fastest for them: THREADS batches at a time, each on one thread (OpenVINO: its hint THROUGHPUT).

CPU, THREADS threads (2), batches of 32. Tokens are real ones: special tokens counted, padding not. Loading, exporting, compiling and one
whole pass over the texts to warm up are not timed; tokenizing is.
"""

import argparse
import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from common import BATCH, THREADS, read_texts

warnings.filterwarnings("ignore")

import numpy as np
from tokenizers import Tokenizer

GRAPH_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
Encode = Callable[[list[str]], tuple[np.ndarray, int]]  # texts to embeddings and tokens
Infer = Callable[[dict[str, np.ndarray]], np.ndarray]  # a batch of GRAPH_INPUTS to token embeddings


def export(model_dir: Path, path: Path) -> None:
    """The encoder as an ONNX graph, with the eager attention: both engines run it sooner than torch's fused one taken apart."""
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(model_dir, attn_implementation="eager", dtype=torch.float32).eval()

    class Encoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, *inputs):
            return self.model(**dict(zip(GRAPH_INPUTS, inputs, strict=True))).last_hidden_state

    example = torch.ones(2, 7, dtype=torch.int64)
    free = {name: {0: "batch", 1: "length"} for name in (*GRAPH_INPUTS, "token_embeddings")}
    torch.onnx.export(Encoder(), (example,) * 3, path, input_names=list(GRAPH_INPUTS), output_names=["token_embeddings"], dynamic_axes=free,
                      opset_version=17, dynamo=False)


def with_torch(model_dir: Path, dtype: str) -> Encode:
    import torch
    import transformers
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(THREADS)
    transformers.logging.disable_progress_bar()
    model = SentenceTransformer(str(model_dir), device="cpu", model_kwargs={"dtype": {"f32": torch.float32, "bf16": torch.bfloat16}[dtype]})

    def count(texts: list[str]) -> int:
        if isinstance(model.tokenizer, Tokenizer):  # static embeddings: no special tokens, no limit
            return sum(len(encoding.ids) for encoding in model.tokenizer.encode_batch(texts, add_special_tokens=False))
        return sum(map(len, model.tokenizer(texts, truncation=True, max_length=model.max_seq_length)["input_ids"]))

    tokens: dict[int, int] = {}

    def encode(texts: list[str]) -> tuple[np.ndarray, int]:
        if len(texts) not in tokens:  # counted in the pass that is not timed
            tokens[len(texts)] = count(texts)
        return model.encode(texts, batch_size=BATCH, show_progress_bar=False), tokens[len(texts)]

    return encode


def with_graph(model_dir: Path, infer: Infer) -> Encode:
    """`infer` on THREADS batches at a time, between tokenizing and pooling."""
    modules = [module["type"].rsplit(".", 1)[-1] for module in json.loads((model_dir / "modules.json").read_text(encoding="utf-8"))]
    pooling = json.loads((model_dir / "1_Pooling/config.json").read_text(encoding="utf-8"))
    if modules != ["Transformer", "Pooling", "Normalize"] or not (pooling.get("pooling_mode_mean_tokens") or pooling.get("pooling_mode") == "mean"):
        sys.exit(f"error: {model_dir}: only mean pooling with normalising is written here")
    limit = json.loads((model_dir / "sentence_bert_config.json").read_text(encoding="utf-8"))["max_seq_length"]
    tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(limit)

    def encode(texts: list[str]) -> tuple[np.ndarray, int]:
        ids = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
        order = sorted(range(len(ids)), key=lambda text: -len(ids[text]))

        def batch(part: list[int]) -> np.ndarray:
            tokens = np.zeros((len(part), len(ids[part[0]])), np.int64)
            mask = np.zeros_like(tokens)
            for row, text in enumerate(part):
                tokens[row, : len(ids[text])] = ids[text]
                mask[row, : len(ids[text])] = 1
            hidden = infer(dict(zip(GRAPH_INPUTS, (tokens, mask, np.zeros_like(tokens)), strict=True)))
            sums = np.matmul(mask[:, None].astype(np.float32), hidden)[:, 0]  # their mean points the same way
            return sums / np.linalg.norm(sums, axis=1, keepdims=True)

        with ThreadPoolExecutor(THREADS) as threads:
            parts = list(threads.map(batch, (order[start : start + BATCH] for start in range(0, len(order), BATCH))))
        embeddings = np.concatenate(parts)
        return embeddings[np.argsort(order)], sum(map(len, ids))

    return encode


def with_onnx(graph: Path) -> Infer:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, inputs)[0]


def with_openvino(graph: Path, dtype: str) -> Infer:
    import threading

    import openvino

    hints = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_NUM_THREADS": THREADS, "INFERENCE_PRECISION_HINT": dtype}
    compiled = openvino.Core().compile_model(str(graph), "CPU", hints)
    own = threading.local()

    def infer(inputs: dict[str, np.ndarray]) -> np.ndarray:
        if not hasattr(own, "request"):
            own.request = compiled.create_infer_request()
        own.request.infer(inputs, share_inputs=True)
        return own.request.get_output_tensor(0).data

    return infer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("texts", nargs="?")
    parser.add_argument("--engine", choices=("torch", "onnx", "openvino"), default="torch")
    parser.add_argument("--dtype", choices=("f32", "bf16"), default="f32")
    parser.add_argument("--graph", type=Path, help="what --export wrote; needed by onnx and openvino")
    parser.add_argument("--export", type=Path, help="write the graph, measure nothing")
    parser.add_argument("--output", help="keep the embeddings, to compare")
    args = parser.parse_args()
    if args.export:
        return export(args.model, args.export)
    if args.texts is None or (args.engine != "torch" and args.graph is None):
        parser.error("TEXTS is missing, or --graph with onnx and openvino")
    if args.engine == "onnx" and args.dtype == "bf16":
        parser.error("ONNX Runtime computes no bf16 on the CPU")
    if args.engine == "torch":
        encode = with_torch(args.model, args.dtype)
    else:
        encode = with_graph(args.model, with_onnx(args.graph) if args.engine == "onnx" else with_openvino(args.graph, args.dtype))
    texts = read_texts(args.texts)
    encode(texts)
    start = time.perf_counter()
    embeddings, tokens = encode(texts)
    seconds = time.perf_counter() - start
    if args.output:
        np.save(args.output, embeddings.astype(np.float32))
    print(json.dumps({"texts": len(texts), "tokens": tokens, "seconds": round(seconds, 4), "tokens_per_second": round(tokens / seconds)}), flush=True)
    os._exit(0)  # OpenVINO's threads may abort while the interpreter ends


if __name__ == "__main__":
    main()
