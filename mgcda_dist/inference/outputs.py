"""Output files of a prediction, written atomically, the record of an input last.

NAME.overlay.png, NAME.overlay.mp4    frame, scores and anomalies as a picture or a video without sound
NAME.score.npy                        H×W float16
NAME.score.png                        H×W uint16: score = low + value · (high - low) / 65535, with `low` and `high`
in the picture's text and in the record
NAME/FRAME.score.…                    the same for each frame of a video
NAME.json                             the record: sizes, anomalies, files

Records are JSON objects from the start (`dict[str, Any]`): they are written and compared, never computed with.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mgcda_dist.data.pixels import Pixels
from mgcda_dist.errors import ConfigError, MgcdaError
from mgcda_dist.evaluation.score_maps import HIGH_KEY, LOW_KEY
from mgcda_dist.files import PendingFile, write_atomically, write_json_atomically
from mgcda_dist.inference.anomalies import Anomaly

__all__ = ["LOWEST_FPS", "OUTPUTS", "Codec", "FrameResult", "Output", "VideoOutput", "write_image", "write_maps"]

Output = Literal["overlay", "npy", "png"]
OUTPUTS: tuple[Output, ...] = get_args(Output)

Codec = Literal["vp9", "mpeg4"]
_FOURCC: dict[Codec, tuple[str, str, str, str]] = {"vp9": ("v", "p", "0", "9"), "mpeg4": ("m", "p", "4", "v")}
"""VP9 plays in browsers; MPEG-4 part 2 does not, but is encoded many times faster. OpenCV has no H.264 encoder."""

LOWEST_FPS = 0.01
"""Of a written video: OpenCV rounds rates to thousandths, and refuses what rounds to less than one."""

_LARGEST_HALF = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class FrameResult:
    """Prediction of one frame.

    Attributes:
        score: H×W float32.
        anomalies: highest mean score first; None: no threshold is known.
        picture: the overlay; None: not wanted.
    """

    score: NDArray[np.float32]
    anomalies: Sequence[Anomaly] | None
    picture: Pixels | None

    def as_json(self) -> dict[str, Any]:
        """Highest score and anomalies."""
        shown: dict[str, Any] = {"max_score": float(f"{float(self.score.max()):.6g}")}
        if self.anomalies is not None:
            shown["anomalies"] = [anomaly.as_json() for anomaly in self.anomalies]
        return shown


def write_image(result: FrameResult, out: Path, name: str, outputs: Sequence[Output], record: dict[str, Any]) -> None:
    """Write the pictures and maps of an image, then its record."""
    files = write_maps(result.score, out, name, outputs)
    if result.picture is not None:
        write_atomically(out / f"{name}.overlay.png", _png(result.picture))
        files["overlay"] = f"{name}.overlay.png"
    content = record | result.as_json() | {"files": files}
    write_json_atomically(out / f"{name}.json", content)


def write_maps(score: NDArray[np.float32], out: Path, name: str, outputs: Sequence[Output]) -> dict[str, Any]:
    """Write the score maps named in `outputs`; returns their paths below `out`, with the range of 16-bit pictures.

    Raises:
        MgcdaError: a score that float16 cannot hold.
    """
    files: dict[str, Any] = {}
    if "npy" in outputs:
        if float(np.abs(score).max()) > _LARGEST_HALF:
            raise MgcdaError(name, "a score is beyond ±65504, the range of float16", "write png instead of npy")
        buffer = io.BytesIO()
        np.save(buffer, score.astype(np.float16))
        write_atomically(out / f"{name}.score.npy", buffer.getvalue())
        files["npy"] = f"{name}.score.npy"
    if "png" in outputs:
        low, high = float(score.min()), float(score.max())
        levels = np.rint((score.astype(np.float64) - low) * (65535 / (high - low) if high > low else 0))
        text = PngInfo()
        text.add_text(LOW_KEY, repr(low))
        text.add_text(HIGH_KEY, repr(high))
        buffer = io.BytesIO()
        Image.fromarray(levels.astype(np.uint16)).save(buffer, "PNG", pnginfo=text, compress_level=2)
        write_atomically(out / f"{name}.score.png", buffer.getvalue())
        files["png"] = {"file": f"{name}.score.png", "low": low, "high": high}
    return files


class VideoOutput:
    """Results of a video, written frame by frame; the files get their final names in `close`.

    Args:
        record: first part of its record.
        fps: frames per second of the overlay; `LOWEST_FPS` where they are fewer.
        outputs: kinds of files to write.
    """

    def __init__(
        self, out: Path, name: str, record: dict[str, Any], *, fps: float, codec: Codec, outputs: Sequence[Output]
    ) -> None:
        self.out, self.name, self.fps, self.outputs = out, name, max(fps, LOWEST_FPS), outputs
        self.codec: Codec = codec
        self.record = record
        self._overlay = PendingFile(out / f"{name}.overlay.mp4", ".part.mp4")
        self._lines = PendingFile(out / f"{name}.json")  # of the frames alone; never committed
        self._file: IO[str] = self._lines.temporary.open("w", encoding="utf-8")
        self._writer: cv2.VideoWriter | None = None
        self.num_frames = self.num_anomalies = 0
        self.max_score = -np.inf

    def add(self, index: int, time_s: float, result: FrameResult) -> None:
        """Write the next frame.

        Raises:
            ConfigError: OpenCV does not have the codec.
            MgcdaError: a score that float16 cannot hold.
        """
        files = write_maps(result.score, self.out, f"{self.name}/{index:06d}", self.outputs)
        if result.picture is not None:
            self._writer = self._writer or self._opened(result.picture.shape[1], result.picture.shape[0])
            self._writer.write(cv2.cvtColor(result.picture, cv2.COLOR_RGB2BGR))
        line = {"frame": index, "time_s": round(time_s, 6)} | result.as_json() | ({"files": files} if files else {})
        self._file.write((",\n" if self.num_frames else "") + json.dumps(line, ensure_ascii=False))
        self.num_frames += 1
        self.num_anomalies += len(result.anomalies or ())
        self.max_score = max(self.max_score, float(result.score.max()))

    def close(self, properties: dict[str, Any]) -> None:
        """Give the files their final names, the record last.

        Args:
            properties: of the video, known only after all of it is read, for the record.

        Raises:
            MgcdaError: the overlay is incomplete.
        """
        files: dict[str, Any] = {}
        if self._writer is not None:
            self._writer.release()
            self._check()
            self._overlay.commit()
            files["overlay"] = f"{self.name}.overlay.mp4"
        self._file.close()
        totals = {"num_frames": self.num_frames, "max_score": float(f"{self.max_score:.6g}")}
        if self.record.get("threshold") is not None:
            totals["num_anomalies"] = self.num_anomalies
        head = self.record | properties | totals | {"files": files}

        def write(path: Path) -> None:
            # The JSON is assembled as text, because the frames may not fit into memory.
            with (
                path.open("w", encoding="utf-8", errors="backslashreplace") as target,
                self._lines.temporary.open(encoding="utf-8") as lines,
            ):
                target.write(json.dumps(head, indent=1, ensure_ascii=False).removesuffix("\n}") + ',\n "frames": [\n')
                shutil.copyfileobj(lines, target)
                target.write("\n]}\n")

        write_atomically(self._lines.path, write)
        self.discard()

    def discard(self) -> None:
        """Remove the temporary files."""
        if self._writer is not None:
            self._writer.release()
        self._file.close()
        self._lines.discard()
        self._overlay.discard()

    def _opened(self, width: int, height: int) -> cv2.VideoWriter:
        fourcc = cv2.VideoWriter.fourcc(*_FOURCC[self.codec])
        writer = cv2.VideoWriter(str(self._overlay.temporary), cv2.CAP_FFMPEG, fourcc, self.fps, (width, height))
        if not writer.isOpened():
            other = next(name for name in _FOURCC if name != self.codec)
            what = f"{self.codec} of {width}×{height} pixels at {self.fps:.4g} frames per second"
            raise ConfigError("codec", f"this OpenCV cannot write {what}", f"try {other}")
        return writer

    def _check(self) -> None:
        """Count the written frames: OpenCV reports no error for a full disk."""
        written = cv2.VideoCapture(str(self._overlay.temporary), cv2.CAP_FFMPEG)
        found = int(written.get(cv2.CAP_PROP_FRAME_COUNT)) if written.isOpened() else 0
        written.release()
        if found != self.num_frames:
            problem = f"{found} of {self.num_frames} frames were written"
            raise MgcdaError(str(self._overlay.path), problem, "is the disk full?")


def _png(picture: Pixels) -> bytes:
    done, data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    assert done
    return data.tobytes()
