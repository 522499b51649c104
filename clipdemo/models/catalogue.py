"""The checkpoints offered by name, with published facts about each. Nothing is loaded or looked up here.

docs/checkpoints.md lists the source of every figure, size and commit; a fact without a source is None.
"""

from __future__ import annotations

from dataclasses import dataclass

EMBEDDED = "embedded"
CLIP_BASE = "openai/clip-vit-base-patch32"

COCO = "COCO recall@1, text to image"
IMAGENET = "ImageNet zero-shot top-1"
_OPENCLIP = (
    "OpenCLIP",
    "https://github.com/mlfoundations/open_clip/blob/main/docs/openclip_retrieval_results.csv",
)
_OPENAI_LICENCE = "MIT (OpenAI's CLIP repository; the hub page does not name a licence)"


@dataclass(frozen=True)
class Figure:
    """A published measurement of quality.

    Attributes:
        measure: the benchmark, such as ``COCO``; figures of different measures are not comparable.
        percent: higher is better.
        by: the publisher.
        url: the public page with the figure.
    """

    measure: str
    percent: float
    by: str
    url: str


@dataclass(frozen=True)
class CatalogueEntry:
    """A checkpoint the app offers by name.

    Attributes:
        id: the name for ``load_encoder``.
        title: the name for people.
        about: what it is good for, in one or two sentences.
        parameters: number of weights.
        download_bytes: size of the weights file, by far the largest; 0 without a download.
        dim: length of an embedding.
        image_size: side of the square input in pixels.
        context_length: number of tokens of a caption that are read.
        licence: of the weights; None if its page does not state it.
        languages: of the training captions; None if its page does not state them.
        figure: published by its authors or OpenCLIP.
        revision: the hub commit to load; None if no public page establishes one.
        pickle: whether its main branch has only ``pytorch_model.bin``, which is read with weights_only.
    """

    id: str
    title: str
    about: str
    parameters: int
    download_bytes: int
    dim: int
    image_size: int
    context_length: int
    licence: str | None
    languages: str | None
    figure: Figure | None = None
    revision: str | None = None
    pickle: bool = False

    @property
    def memory_bytes(self) -> int:
        """Size of the weights in float32, as on a CPU, without the memory for images and captions."""
        return 4 * self.parameters


_ENTRIES = (
    CatalogueEntry(
        id=EMBEDDED,
        title="Embedded model",
        about="A small stand-in without a download: EfficientNet-Lite0 and all-MiniLM-L6-v2, joined by a "
        "projection trained on about a thousand photographs. It knows everyday scenes, and the rest only "
        "roughly. It is not CLIP.",
        parameters=28_437_352,
        download_bytes=0,
        dim=386,
        image_size=320,
        context_length=128,
        licence="Apache-2.0",
        languages="English",
    ),
    CatalogueEntry(
        id=CLIP_BASE,
        title="CLIP ViT-B/32",
        about="The fastest CLIP by OpenAI (Radford et al. 2021): a good first choice without a GPU.",
        parameters=151_277_313,
        download_bytes=605_247_071,
        dim=512,
        image_size=224,
        context_length=77,
        licence=_OPENAI_LICENCE,
        languages="English",
        figure=Figure(COCO, 30.4, *_OPENCLIP),
        revision="3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268",
        pickle=True,
    ),
    CatalogueEntry(
        id="openai/clip-vit-base-patch16",
        title="CLIP ViT-B/16",
        about="As large as ViT-B/32 with smaller patches: more detail for about three times the compute.",
        parameters=149_620_737,
        download_bytes=598_641_023,
        dim=512,
        image_size=224,
        context_length=77,
        licence=_OPENAI_LICENCE,
        languages="English",
        figure=Figure(COCO, 33.1, *_OPENCLIP),
        revision="57c216476eefef5ab752ec549e440a49ae4ae5f3",
        pickle=True,
    ),
    CatalogueEntry(
        id="openai/clip-vit-large-patch14",
        title="CLIP ViT-L/14",
        about="OpenAI's large CLIP: better than the base models, at about twelve times the compute of "
        "ViT-B/32.",
        parameters=427_616_513,
        download_bytes=1_710_540_580,
        dim=768,
        image_size=224,
        context_length=77,
        licence=_OPENAI_LICENCE,
        languages="English",
        figure=Figure(COCO, 36.5, *_OPENCLIP),
        revision="32bd64288804d66eefd0ccbe215aa642df71cc41",
    ),
    CatalogueEntry(
        id="openai/clip-vit-large-patch14-336",
        title="CLIP ViT-L/14@336px",
        about="The large CLIP at a higher image resolution, for small objects; slow without a GPU.",
        parameters=427_944_193,
        download_bytes=1_711_974_081,
        dim=768,
        image_size=336,
        context_length=77,
        licence=_OPENAI_LICENCE,
        languages="English",
        figure=Figure(COCO, 37.1, *_OPENCLIP),
        pickle=True,
    ),
    CatalogueEntry(
        id="laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
        title="OpenCLIP ViT-B/32",
        about="As fast as CLIP ViT-B/32, trained on two billion public pairs; finds the image for a caption "
        "more often.",
        parameters=151_277_313,
        download_bytes=605_000_000,
        dim=512,
        image_size=224,
        context_length=77,
        licence="MIT",
        languages="English",
        figure=Figure(COCO, 39.3, *_OPENCLIP),
    ),
    CatalogueEntry(
        id="laion/CLIP-ViT-g-14-laion2B-s12B-b42K",
        title="OpenCLIP ViT-g/14",
        about="The largest model here, for machines with a GPU and plenty of memory.",
        parameters=1_366_678_273,
        download_bytes=5_470_000_000,
        dim=1024,
        image_size=224,
        context_length=77,
        licence="MIT",
        languages="English",
        figure=Figure(COCO, 48.0, *_OPENCLIP),
        revision="4b0305adc6802b2632e11cbe6606a9bdd43d35c9",
    ),
    CatalogueEntry(
        id="google/siglip-base-patch16-224",
        title="SigLIP ViT-B/16",
        about="Strong retrieval for its size; scores each pair independently, by sigmoid instead of softmax.",
        parameters=203_155_970,
        download_bytes=812_672_320,
        dim=768,
        image_size=224,
        context_length=64,
        licence="Apache-2.0",
        languages="English",
        figure=Figure(COCO, 47.8, *_OPENCLIP),
        revision="7fd15f0689c79d79e38b1c2e2e2370a7bf2761ed",
    ),
    CatalogueEntry(
        id="google/siglip2-base-patch16-224",
        title="SigLIP 2 ViT-B/16",
        about="For captions in many languages; strong in English, too.",
        parameters=375_187_970,
        download_bytes=1_500_800_904,
        dim=768,
        image_size=224,
        context_length=64,
        licence="Apache-2.0",
        languages="multilingual (trained on texts in 109 languages)",
        figure=Figure(
            COCO,
            52.1,
            "its authors",
            "https://github.com/google-research/big_vision/blob/main/"
            "big_vision/configs/proj/image_text/README_siglip2.md",
        ),
    ),
    CatalogueEntry(
        id="wkcn/TinyCLIP-ViT-8M-16-Text-3M-YFCC15M",
        title="TinyCLIP ViT-8M/16",
        about="For small hosts: a distilled CLIP with a download of less than 100 MB.",
        parameters=23_446_017,
        download_bytes=93_812_468,
        dim=512,
        image_size=224,
        context_length=77,
        licence="MIT",
        languages=None,
        figure=Figure(
            IMAGENET,
            41.1,
            "its authors",
            "https://huggingface.co/wkcn/TinyCLIP-ViT-8M-16-Text-3M-YFCC15M",
        ),
        revision="a2a8c6eaa2549ad66eb7c31b85022bf58273a26c",
    ),
)
CATALOGUE = {entry.id: entry for entry in _ENTRIES}


def title(checkpoint_id: str) -> str:
    """The name of a checkpoint for people: its title, or the last part of its id."""
    entry = CATALOGUE.get(checkpoint_id)
    return entry.title if entry else checkpoint_id.rstrip("/\\").replace("\\", "/").rsplit("/", 1)[-1]
