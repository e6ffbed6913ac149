"""Copies of what modules are called with."""

import torch

from dsf.inspection.capture.calls import Copies, copied


def test_a_tensor_that_all_layers_are_given_is_copied_once():
    mask, known = torch.ones(2, 3), Copies()
    first, second = copied((mask, {"mask": mask}), known), copied([mask], known)
    assert first[0] is first[1]["mask"] is second[0]
    assert first[0] is not mask
    assert torch.equal(first[0], mask)


def test_one_that_was_written_into_is_copied_again():
    mask, known = torch.ones(2, 3), Copies()
    before = copied(mask, known)
    mask[0] = 5
    after = copied(mask, known)
    assert torch.equal(before, torch.ones(2, 3))
    assert torch.equal(after, mask)


def test_the_copy_of_one_that_is_gone_is_forgotten():
    mask, known = torch.ones(2, 3), Copies()
    copied(mask, known)
    assert len(known) == 1
    del mask
    assert not len(known)


def test_without_known_copies_every_copy_is_new():
    x = torch.ones(2)
    assert copied(x) is not copied(x)
