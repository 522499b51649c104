"""The losses compared with naive ones, with that of transformers, and for uninformative embeddings."""

import math

import pytest
import torch
from transformers.models.clip.modeling_clip import image_text_contrastive_loss

from clipdemo.train.loss import same_content, sigmoid_loss, softmax_loss

IMAGES, CAPTIONS = torch.tensor([0, 1, 1, 2, 3, 4]), torch.tensor([0, 1, 2, 3, 3, 4])


def unrelated(count=6):
    torch.manual_seed(1)
    a, b = (torch.nn.functional.normalize(torch.randn(count, 8), dim=1) for _ in range(2))
    return a @ b.T


def naive(cosines, scale, images, captions):
    total, count = 0.0, len(cosines)
    for turned in (False, True):
        for n in range(count):
            rivals = []
            for m in range(count):
                same = images[n] == images[m] or captions[n] == captions[m]
                if m == n or not same:
                    rivals.append(scale * float(cosines[m, n] if turned else cosines[n, m]))
            total -= scale * float(cosines[n, n]) - math.log(sum(map(math.exp, rivals)))
    return total / (2 * count)


def test_the_loss_equals_a_naive_one_and_leaves_out_the_same_image_or_caption():
    cosines, log_scale = unrelated(), torch.tensor(1.5)
    loss = softmax_loss(cosines, log_scale, same_content(IMAGES, CAPTIONS))
    assert float(loss) == pytest.approx(naive(cosines, math.exp(1.5), IMAGES, CAPTIONS), rel=1e-5)
    # Pairs 1 and 2 share an image, 3 and 4 a caption: how well they fit each other changes nothing.
    changed = cosines.clone()
    changed[1, 2], changed[4, 3] = 1.0, 1.0
    assert torch.equal(loss, softmax_loss(changed, log_scale, same_content(IMAGES, CAPTIONS)))


def test_without_repetitions_it_equals_the_loss_of_transformers():
    cosines, log_scale = unrelated(), torch.tensor(2.0)
    own = softmax_loss(cosines, log_scale, same_content(torch.arange(6), torch.arange(6)))
    torch.testing.assert_close(own, image_text_contrastive_loss(cosines.T * log_scale.exp()))


def test_uninformative_embeddings_cost_the_logarithm_of_the_batch_size():
    loss = softmax_loss(torch.zeros(7, 7), torch.tensor(3.0), torch.eye(7, dtype=torch.bool))
    assert float(loss) == pytest.approx(math.log(7))


def test_the_sigmoid_loss_equals_a_naive_one():
    cosines, same = unrelated(), same_content(IMAGES, CAPTIONS)
    total = 0.0
    for n in range(6):
        for m in range(6):
            logit = math.exp(0.5) * float(cosines[n, m]) - 2
            if n == m:
                total += math.log1p(math.exp(-logit))
            elif not same[n, m]:
                total += math.log1p(math.exp(logit))
    loss = sigmoid_loss(cosines, torch.tensor(0.5), torch.tensor(-2.0), same)
    assert float(loss) == pytest.approx(total / 6, rel=1e-5)
