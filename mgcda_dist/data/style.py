"""Exchange of style between domains: the low frequencies of another domain's picture (FDA, Yang and Soatto).

    x' = F⁻¹( [M_β·|F(t)| + (1-M_β)·|F(s)|] · e^{i·arg F(s)} )        (arXiv 2004.05498, equation 3)

M_β is 1 at the frequencies up to ⌊β·min(H, W)⌋ along each axis and 0 elsewhere: colours and light, not shapes.
"""

from __future__ import annotations

import numpy as np

from mgcda_dist.data.pixels import Pixels

__all__ = ["with_style_of"]


def with_style_of(target: Pixels, source: Pixels, band: float) -> Pixels:
    """The source with the low-frequency amplitudes of the target; a label of the source stays right.

    Args:
        target: H×W×3, t.
        source: H×W×3, s.
        band: β in [0, 0.5).

    Returns:
        H×W×3, rounded and clipped.
    """
    height, width = source.shape[:2]
    reach = int(band * min(height, width))
    ours, theirs = (np.fft.rfft2(x.astype(np.float32), axes=(0, 1)) for x in (source, target))
    # Of a real picture half of the columns are enough; rows hold frequencies 0 … and, from the end on, -1, -2, ….
    rows = np.r_[: reach + 1, height - reach : height] if 2 * reach < height else np.arange(height)
    low = np.ix_(rows, np.arange(reach + 1))
    amplitude = np.abs(ours[low])
    # The phase of nothing is that of 1.
    phase = np.where(amplitude > 0, ours[low] / np.maximum(amplitude, np.float32(1e-12)), 1)
    ours[low] = np.abs(theirs[low]) * phase
    mixed = np.fft.irfft2(ours, s=(height, width), axes=(0, 1))
    return np.rint(mixed).clip(0, 255).astype(np.uint8)
