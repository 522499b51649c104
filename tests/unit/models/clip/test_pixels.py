"""``PixelRecipe`` equals transformers' own processors bit for bit."""

import numpy as np
import pytest
from pictures import noise
from PIL import Image
from transformers import CLIPImageProcessorPil, CLIPModel, SiglipImageProcessorPil, SiglipModel

from clipdemo.models.clip.encoder import Origin, TransformersEncoder
from clipdemo.models.clip.pixels import PixelRecipe

SIZES = [(512, 384), (384, 512), (225, 224), (224, 224), (60, 61), (500, 31), (31, 500), (1, 20)]
PROCESSORS = {
    "clip": CLIPImageProcessorPil(),
    "clip, odd crop": CLIPImageProcessorPil(
        size={"shortest_edge": 37}, crop_size={"height": 30, "width": 21}
    ),
    "clip, squashed": CLIPImageProcessorPil(
        size={"height": 40, "width": 50}, do_center_crop=False, resample=2
    ),
    "siglip": SiglipImageProcessorPil(),
    "other colours": SiglipImageProcessorPil(image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]),
}


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_pixels_equal_those_of_the_processor(name, size):
    processor, image = PROCESSORS[name], noise(size)
    images = [image, image.transpose(Image.Transpose.ROTATE_180)]
    recipe = PixelRecipe.of(processor)
    ours = recipe.pixels([recipe.view.of(image) for image in images])
    theirs = processor(images, return_tensors="np")["pixel_values"]
    assert ours.dtype == theirs.dtype == np.float32
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    "setting",
    [
        {"do_resize": False},
        {"do_rescale": False},
        {"do_normalize": False},
        {"size": {"shortest_edge": 100, "longest_edge": 200}},
        {"size": {"shortest_edge": 100}, "crop_size": {"height": 224, "width": 224}},
        {"image_mean": 0.5},
    ],
    ids=str,
)
def test_an_unsupported_setting_is_left_to_the_processor(setting):
    assert PixelRecipe.of(CLIPImageProcessorPil(**setting)) is None


@pytest.mark.parametrize(
    ("fixture", "model_class"), [("colour_clip", CLIPModel), ("tiny_siglip", SiglipModel)]
)
@pytest.mark.parametrize("setting", [{}, {"do_normalize": False}], ids=["fused", "left to the processor"])
def test_embeddings_equal_those_of_the_processor(fixture, model_class, setting, item_of, request, tmp_path):
    folder = request.getfixturevalue(fixture)
    processor_class = CLIPImageProcessorPil if fixture == "colour_clip" else SiglipImageProcessorPil
    processor = processor_class.from_pretrained(folder, **setting)
    model = model_class.from_pretrained(folder).eval()
    for part in (model, processor):
        part.save_pretrained(tmp_path)
    for file in folder.glob("*token*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    images = [noise(size, seed) for seed, size in enumerate([(512, 384), (100, 300), (33, 32)])]
    encoder = TransformersEncoder(tmp_path, Origin("x", "local", "f" * 64, "folder"))
    ours = encoder.encode_images([item_of(image) for image in images])
    theirs = model.get_image_features(**processor(images, return_tensors="pt")).pooler_output.detach().numpy()
    np.testing.assert_allclose(ours, theirs / np.linalg.norm(theirs, axis=1, keepdims=True), atol=1e-5)
