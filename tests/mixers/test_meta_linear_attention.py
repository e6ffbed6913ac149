"""MetaLA's augmentation, one for all or one a head."""

from dataclasses import replace

import pytest
import torch

import dsf
from dsf.runtime.shapes import ShapeError


@pytest.fixture
def mixer():
    return dsf.mixers.MetaLinearAttention.draw(torch.Generator().manual_seed(0), steps=5)


def test_every_head_may_have_an_augmentation_of_its_own(mixer):
    own = torch.stack([mixer.augmentation, -mixer.augmentation])
    both = dsf.respond(replace(mixer, augmentation=own).system(), mixer.signal())
    for k, alone in enumerate(own):
        one = dsf.respond(replace(mixer, augmentation=alone).system(), mixer.signal())
        torch.testing.assert_close(both[k], one[k], rtol=1e-13, atol=1e-13)


@pytest.mark.usefixtures("our_own_errors")
def test_augmentations_for_other_heads_are_refused(mixer):
    with pytest.raises(ShapeError, match="'batch'"):
        replace(mixer, augmentation=torch.ones(3, 4).double())
