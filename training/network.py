"""The two networks. Static shapes, plain convolutions: they export to opset 17 and run anywhere.

Outputs are raw (logits, logs); ``depai_robot.perception.network`` says what they mean.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from depai_robot.perception.observation import KEYPOINT_COUNT

HEAT_SIDE = 32
LOCAL_CHANNELS = 24


def conv(inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, dilation, dilation, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class Residual(nn.Module):
    def __init__(self, channels: int, dilation: int = 1) -> None:
        super().__init__()
        self.first = conv(channels, channels, 1, dilation)
        self.second = nn.Sequential(
            nn.Conv2d(channels, channels, 3, 1, dilation, dilation, bias=False), nn.BatchNorm2d(channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x + self.second(self.first(x)))


class Finder(nn.Module):
    """(B, 1, 240, 320) to (B, 5, 30, 40)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(1, 16, 2), conv(16, 32, 2))
        self.fine = nn.Sequential(conv(32, 48, 2), Residual(48))
        self.coarse = nn.Sequential(conv(48, 96, 2), Residual(96), Residual(96, 2))
        self.up = nn.Conv2d(96, 48, 1)
        self.join = conv(48, 48)
        self.head = nn.Conv2d(48, 5, 1)
        nn.init.constant_(self.head.bias, 0.0)
        self.head.bias.data[0] = -4.6  # one cell in a hundred is a centre

    def forward(self, image: Tensor) -> Tensor:
        fine = self.fine(self.stem(image))
        coarse = functional.interpolate(self.up(self.coarse(fine)), scale_factor=2, mode="nearest")
        return self.head(self.join(functional.relu(fine + coarse)))


class Keypoints(nn.Module):
    """(B, 1, 128, 128) to (B, 12, 4) and (B, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(1, 24, 2)
        self.fine = nn.Sequential(conv(24, 48, 2), Residual(48))
        self.middle = nn.Sequential(conv(48, 80, 2), Residual(80))
        self.coarse = nn.Sequential(conv(80, 128, 2), Residual(128))
        self.up_middle = nn.Conv2d(128, 80, 1)
        self.up_fine = nn.Conv2d(80, 64, 1)
        self.side_fine = nn.Conv2d(48, 64, 1)
        self.join_middle = conv(80, 80)
        self.join_fine = nn.Sequential(conv(64, 64), conv(64, 64))
        self.heat = nn.Conv2d(64, KEYPOINT_COUNT, 1)
        self.local = nn.Conv2d(64, LOCAL_CHANNELS, 1)
        self.whole = nn.Linear(128, 48)
        self.spread = nn.Linear(LOCAL_CHANNELS + 48, 2 * KEYPOINT_COUNT)
        self.presence = nn.Linear(48, 1)
        # Heat cell i covers crop pixels 4i .. 4i+3; a rim beyond the crop would only be guessed.
        cells = torch.arange(HEAT_SIDE, dtype=torch.float32) * 4 + 1.5
        grid = torch.stack([cells.repeat(HEAT_SIDE), cells.repeat_interleave(HEAT_SIDE)], dim=1)
        self.register_buffer("grid", grid, persistent=False)
        select = torch.eye(KEYPOINT_COUNT).reshape(1, KEYPOINT_COUNT, KEYPOINT_COUNT, 1)
        self.register_buffer("select", select, persistent=False)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.fine(self.stem(image))
        middle = self.middle(fine)
        coarse = self.coarse(middle)
        whole = functional.relu(self.whole(coarse.mean(dim=(2, 3))))
        up = functional.interpolate(self.up_middle(coarse), scale_factor=2, mode="nearest")
        middle = self.join_middle(functional.relu(middle + up))
        up = functional.interpolate(self.up_fine(middle), scale_factor=2, mode="nearest")
        fine = self.join_fine(functional.relu(self.side_fine(fine) + up))
        # Sub-pixel answers need full precision from here on, whatever autocast does above.
        with torch.autocast("cpu", enabled=False):
            heat = self.heat(fine.float()).flatten(2).softmax(dim=2)
            position = heat @ self.grid
            local = heat @ self.local(fine.float()).flatten(2).transpose(1, 2)
            whole = whole.float()
            shared = whole.unsqueeze(1).expand(-1, KEYPOINT_COUNT, -1)
            # Each keypoint has its own row of the last layer.
            spread = self.spread(torch.cat([local, shared], dim=2))
            spread = spread.reshape(-1, KEYPOINT_COUNT, KEYPOINT_COUNT, 2)
            spread = (spread * self.select).sum(dim=2)
            return torch.cat([position, spread], dim=2), self.presence(whole)
