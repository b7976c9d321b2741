"""D_s: a small strided conv net that says, per location, which of M domains a feature map comes from."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["PatchDiscriminator"]


class PatchDiscriminator(nn.Module):
    """Two strided convolutions and a classifier with M outputs per location, or M·C: one per domain and class.

    No normalisation layer: statistics over a batch would tie the images of a rank together and break world-size
    invariance, and statistics over an image would hide the contrast and brightness in which domains differ.

    Args:
        in_channels: of the feature map.
        num_outputs: M or M·C.
        channels: width.
    """

    def __init__(self, in_channels: int, num_outputs: int, channels: int = 64) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [
                _Convolution(in_channels, channels, kernel_size=3, stride=2, padding=1),
                nn.LeakyReLU(0.2),
                _Convolution(channels, channels, kernel_size=3, stride=2, padding=1),
                nn.LeakyReLU(0.2),
                _Convolution(channels, num_outputs, kernel_size=1),
            ]
        )

    def forward(self, features: Tensor, *, learns: bool = True) -> Tensor:
        """N×c×h×w → logits N×num_outputs×⌈h/4⌉×⌈w/4⌉; with `learns` false gradients reach the features alone."""
        for layer in self.layers:
            features = layer(features, learns) if isinstance(layer, _Convolution) else layer(features)
        return features

    @staticmethod
    def output_size(height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the logits for a feature map of that size."""
        return -(-height // 4), -(-width // 4)


class _Convolution(nn.Conv2d):
    """A convolution whose parameters can be left out of the gradient of one pass."""

    def forward(self, input: Tensor, learns: bool = True) -> Tensor:  # as torch calls it
        # Here, and not around the discriminator: with ZeRO 3 the parameters are whole only within their own module.
        weight, bias = self.weight, self.bias
        if not learns:
            weight, bias = weight.detach(), None if bias is None else bias.detach()
        return self._conv_forward(input, weight, bias)
