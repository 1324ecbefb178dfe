"""The two networks. Static shapes, plain convolutions: they export to opset 17 and run anywhere.

Outputs are raw (logits, logs); ``depai_robot.perception.network`` says what they mean.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from depai_robot.perception.observation import KEYPOINT_COUNT

HEAT_SIDE = 32
LOCAL_CHANNELS = 24


def conv(inputs: int, outputs: int, stride: int = 1, size: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class Block(nn.Module):
    """Each channel by itself over a neighbourhood, then all channels at each place; added to what came in.

    Source: L. Sifre, "Rigid-motion scattering for image classification", 2014, section 6.2 (separable convolutions).
    """

    def __init__(self, channels: int, size: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, size, 1, size // 2, groups=channels, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x + self.body(x))


def blocks(channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(Block(channels) for _ in range(count)))


def double(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2, mode="nearest")


class Finder(nn.Module):
    """(B, 1, 240, 320) to (B, 5, 30, 40)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(1, 32, 4, 7)
        self.fine = nn.Sequential(conv(32, 48, 2), blocks(48, 2))
        self.middle = nn.Sequential(conv(48, 80, 2), blocks(80, 3))
        self.coarse = nn.Sequential(conv(80, 112, 2), blocks(112, 3))
        self.up_coarse = nn.Conv2d(112, 80, 1)
        self.join_middle = blocks(80, 1)
        self.up_middle = nn.Conv2d(80, 48, 1)
        self.join_fine = blocks(48, 2)
        self.head = nn.Conv2d(48, 5, 1)
        nn.init.constant_(self.head.bias, 0.0)
        self.head.bias.data[0] = -4.6  # one cell in a hundred is a centre

    def forward(self, image: Tensor) -> Tensor:
        fine = self.fine(self.stem(image))
        middle = self.middle(fine)
        # 15 rows halve to 8; the last of the doubled ones is dropped.
        up = double(self.up_coarse(self.coarse(middle)))[:, :, :15]
        middle = self.join_middle(functional.relu(middle + up))
        fine = self.join_fine(functional.relu(fine + double(self.up_middle(middle))))
        return self.head(fine)


class Keypoints(nn.Module):
    """(B, 1, 128, 128) to (B, 12, 4) and (B, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(1, 16, 2, 5)
        self.fine = nn.Sequential(conv(16, 40, 2), blocks(40, 2))
        self.middle = nn.Sequential(conv(40, 72, 2), blocks(72, 3))
        self.coarse = nn.Sequential(conv(72, 128, 2), blocks(128, 4))
        self.up_coarse = nn.Conv2d(128, 72, 1)
        self.join_middle = blocks(72, 2)
        self.up_middle = nn.Conv2d(72, 48, 1)
        self.side_fine = nn.Conv2d(40, 48, 1)
        self.join_fine = blocks(48, 3)
        self.heat = nn.Conv2d(48, KEYPOINT_COUNT, 1)
        self.local = nn.Conv2d(48, LOCAL_CHANNELS, 1)
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
        middle = self.join_middle(functional.relu(middle + double(self.up_coarse(coarse))))
        fine = self.join_fine(functional.relu(self.side_fine(fine) + double(self.up_middle(middle))))
        # Sub-pixel answers need full precision from here on, whatever autocast does above.
        with torch.autocast("cpu", enabled=False):
            fine = fine.float()
            heat = self.heat(fine).flatten(2).softmax(dim=2)
            position = heat @ self.grid
            local = heat @ self.local(fine).flatten(2).transpose(1, 2)
            whole = whole.float()
            shared = whole.unsqueeze(1).expand(-1, KEYPOINT_COUNT, -1)
            # Each keypoint has its own row of the last layer.
            spread = self.spread(torch.cat([local, shared], dim=2))
            spread = spread.reshape(-1, KEYPOINT_COUNT, KEYPOINT_COUNT, 2)
            spread = (spread * self.select).sum(dim=2)
            return torch.cat([position, spread], dim=2), self.presence(whole)
