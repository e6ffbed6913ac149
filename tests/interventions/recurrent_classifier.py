"""A classifier of sequences of vectors, made of layers of torch."""

import torch


class RecurrentClassifier(torch.nn.Module):
    """Two LSTMs with residual connections, and classes of the mean over tokens."""

    def __init__(self, classes=3):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            parts = [torch.nn.LSTM(6, 6, batch_first=True) for _ in range(2)]
            self.layers = torch.nn.ModuleList(parts)
            self.head = torch.nn.Linear(6, classes)

    def forward(self, x):
        for layer in self.layers:
            x = x + layer(x)[0]
        return self.head(x.mean(dim=1))


VECTORS = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(0))
