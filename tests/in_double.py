"""What others wrote for PyTorch in float32, run in float64."""


def in_double(monkeypatch):
    """Let `float32` mean float64, for modules that round to it on their way whatever comes in."""
    import torch

    monkeypatch.setattr(torch, "float32", torch.float64)
    monkeypatch.setattr(torch, "float", torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
