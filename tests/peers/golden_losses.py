#!/usr/bin/env python3
"""What PyTorch says of every loss: golden_losses.py [OUT_DIR, default tests/data/losses]

Writes one JSON list of cases a loss: settings, inputs, the value, and its gradient by every input in `gradients`. Where
sentence-transformers has the loss its own class computes it, elsewhere the formula is written out in torch. Everything runs in
float64 on inputs that float32 holds exactly. A row of a gradient is null where the peer's convention for it is its own
(the direction of a zero vector).
"""

import json
import math
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sentence_transformers.sentence_transformer import losses
from sentence_transformers.sentence_transformer.losses.batch_hard_triplet import BatchHardTripletLossDistanceFunction
from sentence_transformers.sentence_transformer.losses.triplet import TripletDistanceMetric
from sentence_transformers.util import pairwise_cos_sim, pairwise_dot_score
from transformers import PreTrainedTokenizerBase

torch.set_num_threads(1)
CASES: dict[str, list[dict]] = {}


def matrix(rows: int, width: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    """Values of a fixed generator in (-scale, scale), with three decimals, as float32 rounds them."""
    state, values = (seed * 0x9E3779B97F4A7C15 + 1) % 2**64, []
    for _ in range(rows * width):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        values.append(round(((state >> 33) / 2**31 * 2 - 1) * scale, 3))
    return torch.tensor(values, dtype=torch.float32).reshape(rows, width).double()


def near(x: torch.Tensor, seed: int, distance: float) -> torch.Tensor:
    """Rows near those of x, with four decimals."""
    return (x + distance * matrix(*x.shape, seed)).round(decimals=4).float().double()


def plain(value, number=lambda v: float(str(np.float32(v)))):
    """Lists of numbers, by default float32's in as few digits as give them back."""
    if isinstance(value, torch.Tensor):
        return plain(value.detach().tolist(), number)
    if isinstance(value, list):
        return [plain(v, number) for v in value]
    return number(value) if isinstance(value, float) else value


def result(value):
    return plain(value, lambda v: float(f"{v:.7g}"))


def case(file: str, name: str, settings: dict, inputs: dict, loss, own_rows: dict | None = None) -> None:
    """Records loss(**inputs), whose tensors get gradients; own_rows[input] are rows whose gradient is not compared."""
    tensors = {key: value.clone().requires_grad_() for key, value in inputs.items()}
    value = loss(**tensors)
    assert value.dim() == 0 and torch.isfinite(value), name
    gradients = torch.autograd.grad(value, list(tensors.values()), allow_unused=True)
    recorded = {}
    for key, gradient in zip(tensors, gradients):
        gradient = torch.zeros_like(tensors[key]) if gradient is None else gradient
        assert torch.isfinite(gradient).all(), (name, key)
        recorded[key] = result(gradient)
        for row in (own_rows or {}).get(key, []):
            recorded[key][row] = None
    case = {"name": name, **settings, "inputs": {k: plain(v) for k, v in inputs.items()}}
    CASES.setdefault(file, []).append({**case, "value": result(value.item()), "gradients": recorded})


def cosines(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.normalize(x, dim=1) @ F.normalize(y, dim=1).T


# --- InfoNCE -----------------------------------------------------------------------------------------------------------


def row_loss(logits: torch.Tensor, masked: torch.Tensor, target: int, smoothing: float) -> torch.Tensor:
    """torch's own cross entropy over the classes of a row that are not masked."""
    kept = [c for c in range(len(logits)) if not masked[c]]
    return F.cross_entropy(logits[kept][None], torch.tensor([kept.index(target)]), label_smoothing=smoothing)


def direction(anchors, candidates, masked, scale, smoothing, margin):
    cos = cosines(anchors, candidates)
    rows = []
    for i in range(len(cos)):
        left_out = masked[i].clone()
        if margin is not None:
            positive = cos[i, i].item()
            limit = positive - margin[1] if margin[0] == "absolute" else positive * (1 - margin[1])
            assert margin[0] == "absolute" or positive > 0
            gaps = (cos[i].detach() - limit).abs()
            gaps[i] = 1
            assert gaps.min() > 1e-4, "a cosine is too near to the limit for float32"
            left_out |= cos[i].detach() > limit
            left_out[i] = False
        rows.append(row_loss(cos[i] * scale, left_out, i, smoothing))
    return torch.stack(rows).mean()


def info_nce(name, queries, documents, *, temperature=0.05, log_scale=None, smoothing=0.0, both=False, margin=None,
             more_queries=None, mask_documents=(), mask_queries=()):
    n, m = len(queries), len(documents)
    k = 0 if more_queries is None else len(more_queries)
    masks = torch.zeros(n, m, dtype=torch.bool), torch.zeros(n, n + k, dtype=torch.bool)
    for mask, pairs in zip(masks, (mask_documents, mask_queries)):
        for i, j in pairs:
            mask[i, j] = True
    inputs = {"queries": queries, "documents": documents}
    settings = {"loss": "info_nce", "label_smoothing": smoothing, "both_directions": both, "false_negatives": margin,
                "mask_documents": masks[0].flatten().tolist() if mask_documents else [],
                "mask_queries": masks[1].flatten().tolist() if mask_queries else []}
    if more_queries is not None:
        inputs["more_queries"] = more_queries
    if log_scale is None:
        settings["temperature"] = temperature
    else:
        inputs["log_scale"] = torch.tensor([log_scale], dtype=torch.float32).double()

    def loss(queries, documents, more_queries=None, log_scale=None):
        if log_scale is None:
            scale = 1 / temperature
        else:  # CLIP bounds the variable itself, so that the gradient flows at the bound
            scale = (log_scale + (log_scale.clamp(max=math.log(100)) - log_scale).detach()).exp()
        forward = direction(queries, documents, masks[0], scale, smoothing, margin)
        if not both:
            return forward
        others = queries if more_queries is None else torch.cat([queries, more_queries])
        return (forward + direction(documents[:n], others, masks[1], scale, smoothing, margin)) / 2

    case("info_nce", name, settings, inputs, loss)


def multiple_negatives(name, queries, columns, temperature, both):
    """The same by sentence-transformers' class; columns are the positives, then hard negatives."""
    directions = ("query_to_doc", "doc_to_query") if both else ("query_to_doc",)
    peer = losses.MultipleNegativesRankingLoss(
        None, scale=1 / temperature, directions=directions, partition_mode="per_direction"
    )
    n = len(queries)
    settings = {"loss": "info_nce", "label_smoothing": 0.0, "both_directions": both, "false_negatives": None,
                "mask_documents": [], "mask_queries": [], "temperature": temperature}
    inputs = {"queries": queries, "documents": torch.cat(columns)}
    case("info_nce", name, settings, inputs,
         lambda queries, documents: peer.compute_loss_from_embeddings([queries, *documents.split(n)], None))


def info_nce_cases():
    q = matrix(5, 6, 1)
    p, h = near(q, 2, 0.6), matrix(5, 6, 3)
    for both in (False, True):
        direction = "both directions" if both else "one direction"
        multiple_negatives(f"sentence-transformers, {direction}", q, [p], 0.05, both)
        multiple_negatives(f"sentence-transformers, {direction}, two hard negatives", q, [p, h, matrix(5, 6, 4)], 0.1, both)
        multiple_negatives(f"sentence-transformers, {direction}, two rows", q[:2], [p[:2]], 0.02, both)
        if both:
            wide = matrix(3, 32, 5)
            multiple_negatives("sentence-transformers, 32 wide", wide, [near(wide, 6, 0.8), matrix(3, 32, 7)], 0.05, both)
        masks = {"mask_documents": [(0, 1), (0, 6), (3, 9), (4, 0)], "mask_queries": [(1, 0), (0, 4)] if both else ()}
        documents = torch.cat([p, h])
        info_nce(f"masks, {direction}", q, documents, both=both, **masks)
        info_nce(f"label smoothing, {direction}", q, documents, smoothing=0.1, both=both)
        info_nce(f"label smoothing and masks, {direction}", q, documents, smoothing=0.3, both=both, **masks)
        info_nce(f"learned temperature, {direction}", q, documents, log_scale=2.6593, both=both)
        info_nce(f"learned temperature beyond its bound, {direction}", q, near(q, 8, 1.5), log_scale=5.0, both=both)
        wider = () if both else (("absolute", 0.0), ("relative", 0.5))
        for margin in (("absolute", 0.3), ("relative", 0.05), *wider):
            info_nce(f"false negatives, {margin[0]} {margin[1]}, {direction}", q, torch.cat([near(q, 9, 1.2), near(q, 10, 1.0)]),
                     temperature=0.1, both=both, margin=margin)
    queue_d, queue_q = near(torch.cat([q, h[:2]]), 11, 1.1), near(torch.cat([p, h[:4]]), 12, 1.1)
    info_nce("a memory of documents", q, torch.cat([p, h, queue_d]))
    info_nce("a memory of documents and queries", q, torch.cat([p, h, queue_d]), more_queries=queue_q, both=True)
    info_nce("everything", q, torch.cat([p, h, queue_d]), more_queries=queue_q, both=True, log_scale=2.0, smoothing=0.1,
             margin=("relative", 0.1), mask_documents=[(0, 1), (2, 16)], mask_queries=[(1, 0), (3, 13)])
    info_nce("equal rows", q[[0, 0, 2]], p[[1, 1, 2]], both=True, smoothing=0.1)
    info_nce("queries are their documents", q, q, both=True)
    zero = q.clone()
    zero[1] = 0
    info_nce("a zero query", zero, torch.cat([p, h]), both=True)
    zero = torch.cat([p, h])
    zero[2] = zero[7] = 0
    info_nce("zero documents", q, zero, both=True, smoothing=0.1)


# --- triplets ----------------------------------------------------------------------------------------------------------

METRICS = {"cosine": TripletDistanceMetric.COSINE, "euclidean": TripletDistanceMetric.EUCLIDEAN,
           "manhattan": TripletDistanceMetric.MANHATTAN}
MATRICES = {"cosine": BatchHardTripletLossDistanceFunction.cosine_distance,
            "euclidean": BatchHardTripletLossDistanceFunction.euclidean_distance,
            "manhattan": lambda x: (x[:, None] - x[None]).abs().sum(-1)}


def triplet_cases():
    a = matrix(4, 6, 20)
    p, n = near(a, 21, 0.7), near(a, 22, 0.9)
    for distance, metric in METRICS.items():
        def one(name, a, p, n, owners, margin, own_rows=None):
            peer = losses.TripletLoss(None, distance_metric=metric, triplet_margin=margin)
            settings = {"loss": "triplet", "distance": distance, "margin": margin, "owners": owners}
            case("triplet", f"{name}, {distance}", settings, {"anchors": a, "positives": p, "negatives": n},
                 lambda anchors, positives, negatives: peer.compute_loss_from_embeddings(
                     [anchors[owners], positives[owners], negatives], None), own_rows)

        one("one negative each", a, p, n, [0, 1, 2, 3], 0.3)
        one("several negatives of some", a, p, matrix(6, 6, 23), [2, 0, 0, 3, 2, 2], 0.2)
        one("two rows, 32 wide", matrix(2, 32, 24), matrix(2, 32, 25), matrix(2, 32, 26), [0, 1], 5.0)
        same = p.clone()
        same[1] = a[1]
        one("an anchor that is its positive", a, same, n, [0, 1, 2, 3], 1.0)
        one("the positive is the negative", a, p, torch.cat([p[:1], n[1:]]), [0, 1, 2, 3], 0.0)
        zero = n.clone()
        zero[2] = 0
        one("a zero negative", a, p, zero, [0, 1, 2, 3], 5.0)


def mining_cases():
    x = matrix(8, 4, 30)
    batches = {"groups": (x, [0, 0, 1, 1, 2, 2, 0, 1]), "one without a positive": (x[:6], [3, 3, 1, 1, 1, 7]),
               "one label": (x[:4], [5, 5, 5, 5]), "two rows": (x[:2], [1, 2]),
               "no positives": (x[:4], [0, 1, 2, 3]), "32 wide": (matrix(4, 32, 31), [0, 1, 0, 1])}
    peers = {"hard": losses.BatchHardTripletLoss, "semi_hard": losses.BatchSemiHardTripletLoss, "all": losses.BatchAllTripletLoss}
    for distance, metric in MATRICES.items():
        for batch, (rows, labels) in batches.items():
            if distance == "manhattan" and batch not in ("groups", "one without a positive"):
                continue
            # Of equal distances the peer may take another, and float32 orders near ones otherwise.
            values = metric(rows)[~torch.eye(len(rows), dtype=torch.bool)].unique()
            assert len(values) < 3 or values.diff()[values.diff() > 1e-9].min() > 1e-5
            tensor = torch.tensor(labels)
            margins = {"cosine": 0.3, "euclidean": 0.5, "manhattan": 2.0}
            for mining, peer in peers.items():
                peer = peer(None, distance_metric=metric, margin=margins[distance])
                settings = {"loss": "mining", "mining": mining, "distance": distance, "labels": labels, "margin": margins[distance]}
                case("triplet_mining", f"{mining}, {distance}, {batch}", settings, {"embeddings": rows},
                     lambda embeddings: peer.compute_loss_from_embeddings([embeddings], tensor).double())
            peer = losses.BatchHardSoftMarginTripletLoss(None, distance_metric=metric)
            settings = {"loss": "mining", "mining": "hard_soft_margin", "distance": distance, "labels": labels, "margin": 0.0}
            case("triplet_mining", f"hard_soft_margin, {distance}, {batch}", settings, {"embeddings": rows},
                 lambda embeddings: peer.compute_loss_from_embeddings([embeddings], tensor))
    # From row 0 the positive and a negative are equally far: the other negative is the one beyond.
    lattice = torch.tensor([[0, 0], [3, 0], [0, 3], [0, -5]], dtype=torch.float64)
    peer = losses.BatchSemiHardTripletLoss(None, distance_metric=MATRICES["euclidean"], margin=3.0)
    settings = {"loss": "mining", "mining": "semi_hard", "distance": "euclidean", "labels": [0, 0, 1, 1], "margin": 3.0}
    case("triplet_mining", "semi_hard, euclidean, a tie", settings, {"embeddings": lattice},
         lambda embeddings: peer.compute_loss_from_embeddings([embeddings], torch.tensor([0, 0, 1, 1])))
    # Equal rows with the same label: distance 0, whose gradient is 0.
    twins = x[[0, 1, 2, 0, 4, 5]]
    labels = [0, 1, 1, 0, 2, 2]
    for mining in ("hard", "hard_soft_margin", "all"):
        peer = {"hard": losses.BatchHardTripletLoss, "all": losses.BatchAllTripletLoss}.get(mining)
        metric = MATRICES["euclidean"]
        peer = peer(None, distance_metric=metric, margin=0.5) if peer else losses.BatchHardSoftMarginTripletLoss(None, distance_metric=metric)
        settings = {"loss": "mining", "mining": mining, "distance": "euclidean", "labels": labels, "margin": 0.5}
        case("triplet_mining", f"{mining}, euclidean, twins", settings, {"embeddings": twins},
             lambda embeddings: peer.compute_loss_from_embeddings([embeddings], torch.tensor(labels)))


# --- pairs with scores -------------------------------------------------------------------------------------------------


def pair_cases():
    x = matrix(6, 6, 40)
    y = near(x, 41, 1.0)
    zero = x.clone()
    zero[2] = 0
    scores = [0.9, 0.1, 0.5, 0.75, 0.0, 0.3]
    ties = [1.0, 0.0, 1.0, 0.5, 0.5, 0.0]
    batches = {"plain": (x, y, scores), "ties": (x, y, ties), "all scores alike": (x, y, [0.5] * 6),
               "two rows": (x[:2], y[:2], [0.0, 1.0]), "equal texts": (x, x, scores), "opposite texts": (x, -x, scores),
               "odd width": (matrix(5, 7, 42), matrix(5, 7, 43), [0, 1, 2, 3, 2]),
               "32 wide": (matrix(5, 32, 44), near(matrix(5, 32, 44), 45, 0.8), [5, 0, 3, 4, 3]),
               "a zero embedding": (zero, y, scores), "one row": (x[:1], y[:1], [0.25])}
    for name, (x, y, scores) in batches.items():
        scores = [float(s) for s in torch.tensor(scores, dtype=torch.float32)]
        labels = torch.tensor(scores, dtype=torch.float64)
        for scale in (20.0, 5.0) if name in ("plain", "ties") else (20.0,):
            for file, peer in (("cosent", losses.CoSENTLoss), ("angle", losses.AnglELoss)):
                peer = peer(None, scale=scale)
                case(file, f"{name}, scale {scale:g}", {"loss": file, "scale": scale, "scores": plain(scores)}, {"x": x, "y": y},
                     lambda x, y: peer.compute_loss_from_embeddings([x, y], labels))
        peer = losses.CosineSimilarityLoss(None)
        # torch.cosine_similarity takes a zero vector to be 1e-8 long, torch.normalize 1e-12.
        own_rows = {"x": [2]} if name == "a zero embedding" else None
        case("regression", name, {"loss": "regression", "scores": plain(scores)}, {"x": x, "y": y},
             lambda x, y: peer.compute_loss_from_embeddings([x, y], labels), own_rows)


# --- ArcFace -----------------------------------------------------------------------------------------------------------


def arcface(name, embeddings, classes, labels, scale, margins):
    def loss(embeddings, classes):
        cos = cosines(embeddings, classes)
        rows = torch.arange(len(labels))
        own, m = cos[rows, labels], torch.tensor(margins, dtype=torch.float64)[labels]
        theta = own.clamp(-1 + 1e-12, 1 - 1e-12).acos()
        shifted = torch.where(theta + m < math.pi, (theta + m).cos(), own - m * m.sin())
        logits = cos.clone()
        logits[rows, labels] = shifted
        return F.cross_entropy(scale * logits, torch.tensor(labels))

    settings = {"loss": "arcface", "scale": scale, "labels": labels, "margins": margins}
    case("arcface", name, settings, {"embeddings": embeddings, "classes": classes}, loss)


def arcface_cases():
    x, w = matrix(6, 8, 50), matrix(4, 8, 51)
    labels = [0, 1, 2, 3, 1, 0]
    arcface("one margin", x, w, labels, 30.0, [0.5] * 4)
    arcface("a margin a class", x, w, labels, 16.0, [0.1, 0.35, 0.8, 0.0])
    arcface("scale 64", x, w, labels, 64.0, [0.5] * 4)
    arcface("two rows", x[:2], w[:2], [1, 1], 30.0, [0.3, 0.4])
    arcface("32 wide", matrix(5, 32, 52), matrix(7, 32, 53), [6, 0, 3, 3, 2], 30.0, [0.2 + 0.05 * c for c in range(7)])
    arcface("near their classes", near(w[[0, 1, 2, 3]], 54, 0.05), w, [0, 1, 2, 3], 30.0, [0.5] * 4)
    arcface("very near their classes", near(w[[0, 1, 2, 3]], 55, 0.002), w, [0, 1, 2, 3], 8.0, [0.5] * 4)
    arcface("opposite to their classes", near(-w[[0, 1, 2, 3]], 56, 0.1), w, [0, 1, 2, 3], 8.0, [0.5, 0.1, 0.3, 1.0])
    arcface("margins past π", x, w, labels, 10.0, [3.0, 2.5, 3.141, 2.0])
    zero = x.clone()
    zero[3] = 0
    arcface("a zero embedding", zero, w, labels, 30.0, [0.5] * 4)


# --- distillation ------------------------------------------------------------------------------------------------------


def distillation_cases():
    q, d = matrix(4, 6, 60), matrix(12, 6, 61)
    even = [[0, 4, 5], [1, 6, 7], [2, 8, 9], [3, 10, 11]]
    ragged = [[0, 4, 5, 6], [1, 0], [2], [3, 11, 8]]

    def teacher(groups, seed, scale):
        return [matrix(1, len(g), seed + i, scale)[0].tolist() for i, g in enumerate(groups)]

    def kl(name, q, d, groups, scores, similarity, temperature, teacher_temperature):
        def loss(queries, documents):
            if similarity == "cosine":
                queries, documents = F.normalize(queries, dim=1), F.normalize(documents, dim=1)
            rows = []
            for i, (group, row) in enumerate(zip(groups, scores)):
                student = F.log_softmax(documents[group] @ queries[i] / temperature, 0)
                soft = F.softmax(torch.tensor(row, dtype=torch.float64) / teacher_temperature, 0)
                rows.append(F.kl_div(student, soft, reduction="sum"))
                # FlagEmbedding's: without the teacher's entropy, with the same gradient.
                flag = -(student * soft).sum()
                entropy = -(soft * soft.log()).sum()
                assert torch.allclose(rows[-1], flag - entropy)
            return torch.stack(rows).mean()

        settings = {"loss": "kl", "groups": groups, "teacher": plain(scores), "similarity": similarity,
                    "temperature": temperature, "teacher_temperature": teacher_temperature}
        case("distillation", name, settings, {"queries": q, "documents": d}, loss)

    for similarity in ("cosine", "dot"):
        score = pairwise_cos_sim if similarity == "cosine" else pairwise_dot_score
        scores = teacher(even, 62, 3.0)
        peer = losses.DistillKLDivLoss(None, similarity_fct=score, student_temperature=0.5, teacher_temperature=2.0)
        settings = {"loss": "kl", "groups": even, "teacher": plain(scores), "similarity": similarity, "temperature": 0.5,
                    "teacher_temperature": 2.0}

        def columns(queries, documents, groups=even):
            return [queries] + [documents[list(column)] for column in zip(*groups)]

        case("distillation", f"sentence-transformers, {similarity}", settings, {"queries": q, "documents": d},
             lambda queries, documents: peer.compute_loss_from_embeddings(
                 columns(queries, documents), torch.tensor(scores, dtype=torch.float64)) / 0.5**2)
        kl(f"FlagEmbedding's temperature, {similarity}", q, d, even, teacher(even, 62, 3.0), similarity, 0.02 if similarity == "cosine" else 1.0, 1.0)
        kl(f"ragged groups, {similarity}", q, d, ragged, teacher(ragged, 70, 5.0), similarity, 0.1 if similarity == "cosine" else 0.7, 1.0)
        kl(f"a sure teacher, {similarity}", q, d, even, [[50.0, 1.0, -3.0]] * 4, similarity, 0.5, 0.5)
        kl(f"equal scores, {similarity}", q, d[[0, 1, 2, 3] * 3], even, [[1.0, 1.0, 1.0]] * 4, similarity, 0.5, 1.0)
        kl(f"two rows, 32 wide, {similarity}", matrix(2, 32, 80), matrix(5, 32, 81), [[0, 2, 3, 4], [1, 4]],
           teacher([[0] * 4, [0] * 2], 82, 2.0), similarity, 0.3, 1.0)

        peer = losses.MarginMSELoss(None, similarity_fct=score)
        for name, groups in (("three documents", even), ("two documents", [g[:2] for g in even])):
            scores = teacher(groups, 90, 2.0)
            settings = {"loss": "margin_mse", "groups": groups, "teacher": plain(scores), "similarity": similarity}
            case("distillation", f"margin_mse, {name}, {similarity}", settings, {"queries": q, "documents": d},
                 lambda queries, documents: peer.compute_loss_from_embeddings(
                     columns(queries, documents, groups), torch.tensor(scores, dtype=torch.float64)))
        scores = teacher(ragged, 95, 2.0)

        def ragged_mse(queries, documents):
            if similarity == "cosine":
                queries, documents = F.normalize(queries, dim=1), F.normalize(documents, dim=1)
            errors = []
            for i, (group, row) in enumerate(zip(ragged, scores)):
                student = documents[group] @ queries[i]
                errors += [(student[0] - student[j] - (row[0] - row[j])) ** 2 for j in range(1, len(group))]
            return torch.stack(errors).mean()

        settings = {"loss": "margin_mse", "groups": ragged, "teacher": plain(scores), "similarity": similarity}
        case("distillation", f"margin_mse, ragged groups, {similarity}", settings, {"queries": q, "documents": d}, ragged_mse)
    zero = d.clone()
    zero[5] = 0
    kl("a zero document", q, zero, even, teacher(even, 62, 3.0), "cosine", 0.1, 1.0)


# --- GIST --------------------------------------------------------------------------------------------------------------


class Tokenizer(PreTrainedTokenizerBase):
    def get_vocab(self):
        return {}


class Columns(torch.nn.Module):
    """Stands in for a model: its features hold the embeddings."""

    max_seq_length = 1

    def __init__(self, key: str, width: int | None = None):
        super().__init__()
        self.key, self.width, self.tokenizer = key, width, Tokenizer()

    def get_embedding_dimension(self):
        return self.width

    def forward(self, features):
        return {"sentence_embedding": features[self.key]}


def gist_cases():
    q = matrix(5, 6, 100)
    p, h = near(q, 101, 1.0), near(q, 102, 1.2)
    gq = matrix(5, 5, 103)
    gp, gh = near(gq, 104, 0.9), near(gq, 105, 0.9)
    zero = p.clone()
    zero[3] = 0
    wide = matrix(3, 32, 106)
    batches = {"plain": (q, p, None, gq, gp, None), "negatives": (q, p, h, gq, gp, gh), "two rows": (q[:2], p[:2], None, gq[:2], gp[:2], None),
               "32 wide": (wide, near(wide, 107, 0.8), None, gq[:3], gp[:3], None),
               "a zero positive": (q, zero, h, gq, gp, gh)}
    for name, (q, p, h, gq, gp, gh) in batches.items():
        n = len(q)
        for strategy, margin in (("absolute", 0.0), ("absolute", 0.2), ("relative", 0.1)):
            for anchors, positives in ((True, True), (False, True), (True, False), (False, False)):
                if not (anchors and positives) and (name != "negatives" or margin != 0.2):
                    continue
                if name in ("two rows", "32 wide") and margin != 0.2:
                    continue
                peer = losses.GISTEmbedLoss(Columns("student"), Columns("guide"), temperature=0.1, margin_strategy=strategy, margin=margin,
                                            contrast_anchors=anchors, contrast_positives=positives)
                guide = [gq, gp] + ([gh] if gh is not None else [])
                own = pairwise_cos_sim(gq, gp)[:, None]
                limit = own - margin if strategy == "absolute" else own - own.abs() * margin
                for other in (*guide, gq):
                    gaps = (cosines(gq, other) - limit).abs()
                    assert ((gaps > 1e-4) | (torch.eye(n, dtype=torch.bool) & (margin == 0.0))).all()

                def loss(queries, documents):
                    columns = [queries, *documents.split(n)]
                    features = [{"student": s, "guide": g} for s, g in zip(columns, guide)]
                    return peer(features, None)

                settings = {"loss": "gist", "temperature": 0.1, "margin": (strategy, margin), "contrast_anchors": anchors,
                            "contrast_positives": positives, "guide_queries": plain(gq), "guide_documents": plain(torch.cat(guide[1:]))}
                case("gist", f"{name}, {strategy} {margin}, anchors {anchors}, positives {positives}", settings,
                     {"queries": q, "documents": torch.cat([p] if h is None else [p, h])}, loss,
                     {"documents": [3]} if name == "a zero positive" else None)


# --- SimCSE, Matryoshka ------------------------------------------------------------------------------------------------


def simcse_cases():
    def one(name, a, b, temperature, identities=()):
        n = len(a)
        masked = torch.zeros(n, n, dtype=torch.bool)
        for i in range(n):
            for j in range(n):
                masked[i, j] = bool(identities) and i != j and identities[i] == identities[j]

        def loss(a, b):
            # The paper's code: cosine similarity over the temperature, cross entropy with the diagonal.
            logits = F.cosine_similarity(a[:, None], b[None], dim=-1) / temperature
            return F.cross_entropy(logits.masked_fill(masked, -torch.inf), torch.arange(n))

        case("simcse", name, {"loss": "simcse", "temperature": temperature, "identities": list(identities)}, {"a": a, "b": b}, loss)

    a = matrix(6, 8, 110)
    one("plain", a, near(a, 111, 0.3), 0.05)
    one("no dropout", a, a, 0.05)
    one("equal texts", a[[0, 1, 0, 3, 1, 0]], near(a[[0, 1, 0, 3, 1, 0]], 112, 0.3), 0.05, [7, 9, 7, 8, 9, 7])
    one("two rows, 32 wide", matrix(2, 32, 113), near(matrix(2, 32, 113), 114, 0.4), 0.1)


def matryoshka_cases():
    def one(name, inner, peer, columns, labels, dims, weights):
        width = columns[0].shape[1]
        model = Columns("student", width)
        peer.model = model
        peer = losses.MatryoshkaLoss(model, peer, dims, weights or None)
        settings = {"loss": "matryoshka", "dims": dims, "weights": weights, "inner": inner}
        case("matryoshka", name, settings, {f"{i}": column for i, column in enumerate(columns)},
             lambda **columns: peer([{"student": c} for c in columns.values()], labels))

    q = matrix(5, 16, 120)
    p, h = near(q, 121, 0.7), matrix(5, 16, 122)
    ranking = {"loss": "info_nce", "temperature": 0.05}
    mnrl = lambda: losses.MultipleNegativesRankingLoss(None)
    one("ranking", ranking, mnrl(), [q, p], None, [16, 8, 4], [])
    one("ranking, hard negatives, weights", ranking, mnrl(), [q, p, h], None, [4, 16, 10], [0.25, 1.0, 0.5])
    one("ranking, the first column alone", ranking, mnrl(), [q, p], None, [1], [2.0])
    scores = [0.5, 0.25, 1.0, 0.0, 0.75]
    one("cosent", {"loss": "cosent", "scale": 20.0, "scores": scores}, losses.CoSENTLoss(None), [q, p],
        torch.tensor(scores, dtype=torch.float64), [16, 6], [1.0, 0.3])
    x = matrix(3, 32, 123)
    one("ranking, 32 wide", ranking, mnrl(), [x, near(x, 124, 0.8)], None, [32, 16, 8, 4, 2], [])


def main() -> None:
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "data" / "losses"
    for cases in (info_nce_cases, triplet_cases, mining_cases, pair_cases, arcface_cases, distillation_cases, gist_cases,
                  simcse_cases, matryoshka_cases):
        cases()
    out.mkdir(parents=True, exist_ok=True)
    for file, cases in CASES.items():
        text = ",\n".join(json.dumps(case, separators=(",", ":"), ensure_ascii=False) for case in cases)
        (out / f"{file}.json").write_text(f"[\n{text}\n]\n")
        print(f"{file}: {len(cases)} cases")


main()
