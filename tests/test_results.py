"""Memory that is used again, and only when nobody holds it."""

import torch

from sciguide.kernels.results import LEAST, _kept, empty


def test_memory_is_used_again_only_when_nobody_holds_it():
    shape = (2, LEAST // 4)
    first = empty(shape, torch.float32)
    place = first.data_ptr()
    assert empty(shape, torch.float32).data_ptr() != place
    part = first[:, 5:]  # a view keeps it
    del first
    part.fill_(7.0)
    assert empty(shape, torch.float32).fill_(1.0).data_ptr() != place
    assert (part == 7).all()
    del part
    both = [empty(shape, torch.float32) for _ in range(2)]
    assert place in [t.data_ptr() for t in both] and both[0].data_ptr() != both[1].data_ptr()
    del both
    kept = empty(shape, torch.float32).requires_grad_()
    (kept * 2).sum().backward()
    assert kept.grad is not None and len(_kept) <= 2


def test_small_results_and_other_types():
    assert empty((3, 4), torch.float64).dtype == torch.float64 and empty((0,), torch.float32).numel() == 0
    assert empty((LEAST // 8,), torch.float64).shape == (LEAST // 8,)
