"""The three domains: palette, light, haze and camera of each.

`render_a` and `render_b` are renderers (a flat one, and a textured and saturated one); `real_day` stands for a camera
(soft, noisy, muted).
"""

from __future__ import annotations

from dataclasses import dataclass

from mgcda_dist.errors import ConfigError

__all__ = ["DOMAINS", "Colour", "Domain", "Range", "domain_named"]

Range = tuple[float, float]
Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Domain:
    """The look of a domain; every `Range` is drawn anew for each frame.

    Attributes:
        palette, atlas: names of its colours and of its set of surface textures.
        texture: strength of surface textures; 0: flat.
        ambient, ambient_colour, sun, sun_colour: strength and colour (linear) of sky light and sunlight.
        shadow_blur: softness of cast shadows, as a share of the frame's height.
        zenith, horizon: colours of the sky (linear).
        cover: share of clouds.
        fog: extinction per metre.
        exposure: gain. metering: how far the camera corrects towards a middling brightness, 0 … 1.
        red, blue: white balance gains.
        contrast, saturation, lift: tone curve: slope around mid-grey, colourfulness, raised blacks.
        vignette: loss of light in the corners.
        blur: Gaussian blur of the lens, σ in pixels at 256 rows.
        shot, read: noise that grows with the light, and that does not (linear).
        sharpen: strength of the camera's own sharpening.
        jpeg: quality of the camera's own compression; None: none.
    """

    palette: str
    atlas: str
    texture: Range = (1.0, 1.0)
    ambient: Range = (0.5, 0.6)
    ambient_colour: Colour = (0.92, 0.98, 1.12)
    sun: Range = (0.6, 0.8)
    sun_colour: Colour = (1.06, 1.0, 0.9)
    shadow_blur: float = 0.004
    zenith: Colour = (0.18, 0.36, 0.72)
    horizon: Colour = (0.62, 0.76, 0.9)
    cover: Range = (0.2, 0.6)
    fog: Range = (0.0, 0.002)
    exposure: Range = (1.0, 1.0)
    metering: float = 0.0
    red: Range = (1.0, 1.0)
    blue: Range = (1.0, 1.0)
    contrast: Range = (1.0, 1.0)
    saturation: Range = (1.0, 1.0)
    lift: Range = (0.0, 0.0)
    vignette: Range = (0.0, 0.0)
    blur: Range = (0.0, 0.0)
    shot: Range = (0.0, 0.0)
    read: Range = (0.0, 0.0)
    sharpen: Range = (0.0, 0.0)
    jpeg: Range | None = None


DOMAINS: dict[str, Domain] = {
    "render_a": Domain(
        "clean",
        "game",
        texture=(0.0, 0.12),
        ambient=(0.62, 0.7),
        ambient_colour=(0.97, 1.0, 1.05),
        sun=(0.45, 0.55),
        sun_colour=(1.02, 1.0, 0.95),
        shadow_blur=0.001,
        zenith=(0.13, 0.42, 0.9),
        horizon=(0.55, 0.8, 0.97),
        cover=(0.1, 0.45),
        exposure=(0.95, 1.08),
    ),
    "render_b": Domain(
        "rich",
        "baroque",
        texture=(1.2, 1.6),
        ambient=(0.38, 0.5),
        ambient_colour=(0.86, 0.94, 1.2),
        sun=(1.0, 1.35),
        sun_colour=(1.2, 1.0, 0.72),
        shadow_blur=0.002,
        zenith=(0.08, 0.2, 0.5),
        horizon=(0.95, 0.72, 0.42),
        cover=(0.25, 0.6),
        fog=(0.001, 0.004),
        exposure=(1.0, 1.25),
        contrast=(1.1, 1.25),
        saturation=(1.2, 1.45),
        vignette=(0.1, 0.25),
    ),
    "real_day": Domain(
        "natural",
        "street",
        texture=(0.8, 1.1),
        ambient=(0.5, 0.68),
        ambient_colour=(0.97, 1.0, 1.06),
        sun=(0.05, 0.9),
        shadow_blur=0.012,
        zenith=(0.4, 0.54, 0.76),
        horizon=(0.8, 0.83, 0.86),
        cover=(0.25, 1.0),
        fog=(0.0, 0.005),
        exposure=(0.75, 1.2),
        metering=0.7,
        red=(0.93, 1.07),
        blue=(0.92, 1.08),
        contrast=(0.9, 1.1),
        saturation=(0.65, 1.0),
        lift=(0.02, 0.07),
        vignette=(0.15, 0.4),
        blur=(0.45, 0.9),
        shot=(0.0003, 0.0012),
        read=(0.001, 0.004),
        sharpen=(0.2, 0.6),
        jpeg=(45, 80),
    ),
}
"""All domains by name."""


def domain_named(name: str) -> Domain:
    """The domain of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in DOMAINS:
        raise ConfigError("synthetic domain", f"there is no domain {name!r}", f"choose one of: {', '.join(DOMAINS)}")
    return DOMAINS[name]
