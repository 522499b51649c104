"""A family is one record, and the record fits the model of transformers that it names."""

import pytest
import torch
import transformers

from clipdemo.models.clip.families import FAMILIES, family_names


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.title)
def test_a_record_names_classes_and_modules_that_exist(family):
    model_class = getattr(transformers, family.model_class)
    with torch.device("meta"):
        modules = dict(model_class(model_class.config_class()).named_modules())
    assert set(family.heads) <= set(modules)
    for layer in family.lora_layers:
        adapted = [module for name, module in modules.items() if name.split(".")[-1] == layer]
        assert adapted
        assert all(isinstance(module, torch.nn.Linear) for module in adapted)
    assert hasattr(transformers, family.processor_class)


def test_the_families_are_listed_for_sentences():
    assert family_names() == "CLIP, SigLIP or SigLIP 2"
    assert family_names("and") == "CLIP, SigLIP and SigLIP 2"
