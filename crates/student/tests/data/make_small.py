"""Writes small.pt, the TorchScript student of the tests: convolution, batch norm, dropout.

Run with torch 2.11 in this folder: python3 make_small.py
"""

import torch
from torch import nn


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.dropout = nn.Dropout(0.25)
        self.head = nn.Linear(4 * 4 * 4, 10)

    def forward(self, x):
        x = torch.relu(self.bn(self.conv(x)))
        x = torch.max_pool2d(x, 2).flatten(1)
        return self.head(self.dropout(x))


torch.manual_seed(0)
torch.jit.script(Small()).save("small.pt")
