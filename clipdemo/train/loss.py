"""The contrastive losses, over a batch of pairs; other captions of an image are not its negatives."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def same_content(images: Tensor, captions: Tensor) -> Tensor:
    """Which places of a batch's score matrix are no negatives: equal image, or equal caption.

    Args:
        images: (n,) number of each pair's image.
        captions: (n,) number of each pair's caption.

    Returns:
        (n, n) bool; its diagonal, the pairs themselves, is True.
    """
    return (images[:, None] == images[None]) | (captions[:, None] == captions[None])


def softmax_loss(cosines: Tensor, log_scale: Tensor, same: Tensor) -> Tensor:
    """Symmetric cross-entropy: each image finds its caption, each caption its image.

    Without two pairs of the same content this is CLIP's loss; ln(n) when embeddings say nothing.
    Source: Radford et al. 2021, fig. 3.

    Args:
        cosines: (n, n), images by captions, pairs on the diagonal.
        log_scale: () logarithm of the learned logit scale.
        same: (n, n) from :func:`same_content`.
    """
    others = same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)
    logits = (cosines * log_scale.exp()).masked_fill(others, -torch.inf)
    target = torch.arange(len(logits), device=logits.device)
    return (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2


def sigmoid_loss(cosines: Tensor, log_scale: Tensor, bias: Tensor, same: Tensor) -> Tensor:
    """Each image with each caption is a yes or no by itself; places of the same content are left out.

    Source: Zhai et al. 2023, alg. 1.

    Args:
        cosines: (n, n), images by captions, pairs on the diagonal.
        log_scale: () logarithm of the learned logit scale.
        bias: () added after scaling.
        same: (n, n) from :func:`same_content`.
    """
    pairs = torch.eye(len(same), dtype=torch.bool, device=same.device)
    logits = cosines * log_scale.exp() + bias
    losses = -functional.logsigmoid(torch.where(pairs, logits, -logits))
    return losses.masked_fill(same & ~pairs, 0).sum() / len(same)
