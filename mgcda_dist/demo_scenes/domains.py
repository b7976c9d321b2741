"""The six worlds: palette, light, weather and camera of every domain.

`render_*` are renderers (a flat game, a textured and saturated one, a night one); `real_*` stand for cameras (soft,
noisy, muted; by day, at dusk, in rain).
"""

from __future__ import annotations

from dataclasses import dataclass

from mgcda_dist.errors import ConfigError

__all__ = ["DOMAINS", "Colour", "Domain", "Range", "domain_named"]

Range = tuple[float, float]
Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Domain:
    """A world's look; every `Range` is drawn anew for each frame.

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
        glow: strength of lamps and lit windows.
        rain: density of rain streaks. wet: mirror of the road.
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
    glow: float = 0.0
    rain: Range = (0.0, 0.0)
    wet: float = 0.0


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
    "render_night": Domain(
        "natural",
        "engine",
        texture=(0.7, 1.0),
        ambient=(0.035, 0.06),
        ambient_colour=(0.7, 0.85, 1.45),
        sun=(0.02, 0.06),
        sun_colour=(0.7, 0.85, 1.3),
        zenith=(0.004, 0.007, 0.02),
        horizon=(0.03, 0.03, 0.045),
        cover=(0.2, 0.7),
        fog=(0.002, 0.006),
        exposure=(1.3, 1.8),
        contrast=(1.05, 1.2),
        glow=1.0,
        wet=0.4,
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
    "real_dusk": Domain(
        "natural",
        "street",
        texture=(0.7, 1.0),
        ambient=(0.16, 0.26),
        ambient_colour=(0.95, 0.92, 1.12),
        sun=(0.05, 0.4),
        sun_colour=(1.5, 0.8, 0.42),
        shadow_blur=0.015,
        zenith=(0.10, 0.13, 0.24),
        horizon=(0.5, 0.29, 0.19),
        cover=(0.3, 0.9),
        fog=(0.001, 0.009),
        exposure=(0.8, 1.2),
        metering=0.3,
        red=(1.0, 1.12),
        blue=(0.8, 0.97),
        contrast=(1.0, 1.25),
        saturation=(0.6, 0.9),
        lift=(0.03, 0.08),
        vignette=(0.3, 0.55),
        blur=(0.6, 1.1),
        shot=(0.0006, 0.002),
        read=(0.002, 0.006),
        sharpen=(0.2, 0.6),
        jpeg=(40, 75),
        glow=0.7,
    ),
    "real_rain": Domain(
        "natural",
        "street",
        texture=(0.7, 1.0),
        ambient=(0.36, 0.5),
        ambient_colour=(0.93, 1.0, 1.08),
        sun=(0.0, 0.0),
        shadow_blur=0.02,
        zenith=(0.40, 0.44, 0.48),
        horizon=(0.58, 0.61, 0.63),
        cover=(0.9, 1.0),
        fog=(0.006, 0.018),
        exposure=(0.8, 1.2),
        metering=0.6,
        red=(0.9, 1.0),
        blue=(1.0, 1.12),
        contrast=(0.85, 1.05),
        saturation=(0.5, 0.75),
        lift=(0.04, 0.1),
        vignette=(0.2, 0.45),
        blur=(0.7, 1.2),
        shot=(0.0004, 0.0014),
        read=(0.002, 0.005),
        sharpen=(0.2, 0.6),
        jpeg=(40, 75),
        glow=0.35,
        rain=(0.3, 1.0),
        wet=0.55,
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
