"""Contrastive losses over a batch of pairs. Other captions of the same image are not negatives."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def same_content(images: Tensor, captions: Tensor) -> Tensor:
    """Mark the entries of a batch's score matrix that are not negatives: same image or same caption.

    Args:
        images: (n,) index of each pair's image.
        captions: (n,) index of each pair's caption.

    Returns:
        (n, n) bool; True on the diagonal, where the pairs are.
    """
    return (images[:, None] == images[None]) | (captions[:, None] == captions[None])


def softmax_loss(cosines: Tensor, log_scale: Tensor, same: Tensor) -> Tensor:
    """Return the symmetric cross-entropy of images over captions and captions over images.

    Equals CLIP's loss if no image or caption repeats; ln(n) for uninformative embeddings.
    Source: Radford et al. 2021, fig. 3.

    Args:
        cosines: (n, n), rows are images, columns captions, pairs on the diagonal.
        log_scale: () logarithm of the learned logit scale.
        same: (n, n) from :func:`same_content`.
    """
    others = same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)
    logits = (cosines * log_scale.exp()).masked_fill(others, -torch.inf)
    target = torch.arange(len(logits), device=logits.device)
    return (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2


def sigmoid_loss(cosines: Tensor, log_scale: Tensor, bias: Tensor, same: Tensor) -> Tensor:
    """Return the binary cross-entropy of each image with each caption, without entries of the same content.

    Source: Zhai et al. 2023, alg. 1.

    Args:
        cosines: (n, n), rows are images, columns captions, pairs on the diagonal.
        log_scale: () logarithm of the learned logit scale.
        bias: () logit bias, added after scaling.
        same: (n, n) from :func:`same_content`.
    """
    pairs = torch.eye(len(same), dtype=torch.bool, device=same.device)
    logits = cosines * log_scale.exp() + bias
    losses = -functional.logsigmoid(torch.where(pairs, logits, -logits))
    return losses.masked_fill(same & ~pairs, 0).sum() / len(same)
