"""The stream of training batches as a data set: the slots of the plan, read, decoded and augmented.

Picture k of step t is a function of (seed, t, k, data): all its draws come from `numpy_generator(seed, "augment", t,
k)`, so it is byte-identical on any rank, in any process, and after any resume.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from mgcda_dist.choices import OnBadSample
from mgcda_dist.data.augment import Paste, Transform
from mgcda_dist.data.class_mix import with_classes_of
from mgcda_dist.data.pixels import Pixels, as_pixels, resized
from mgcda_dist.data.plan import Plan, SlotRef, slots_of
from mgcda_dist.data.reader import FrameReader
from mgcda_dist.data.style import with_style_of
from mgcda_dist.errors import ConfigError, SampleError, ShardError
from mgcda_dist.method.batch import VOID, Batch
from mgcda_dist.method.randomness import numpy_generator

__all__ = ["FrameSource", "Sample", "TrainingStream"]

_MAX_STAND_INS = 20
_PREFETCH_STEPS = 32


@dataclass(frozen=True, eq=False)
class FrameSource:
    """The samples of one stream and their treatment.

    Attributes:
        name: the stream's name, as in the plan.
        reader: its shards, or a data set of the user's program.
        lut: 256 train ids by raw id.
        labelled: False: all labels read as void, whatever the shards hold.
        paste: puts objects into the crops, also into those without labels, of which the rest stays void; None: none.
        domain: index of the domain that the stream shows.
    """

    name: str
    reader: FrameReader
    lut: NDArray[np.uint8]
    labelled: bool = True
    paste: Paste | None = None
    domain: int = 0


class Sample(NamedTuple):
    """One crop.

    Attributes:
        image: height×width×3, uint8.
        label: height×width, uint8.
        key: `stream/key`.
        weak: the image before anything was pasted and its colours changed; None: nobody asked, or it is labelled.
    """

    image: Pixels
    label: Pixels
    key: str
    weak: Pixels | None


class _Frame(NamedTuple):
    """A whole frame: H×W×3 and H×W, and its `stream/key`."""

    image: Pixels
    label: Pixels
    key: str


class TrainingStream(Dataset[Batch]):
    """This rank's micro-batches, in order.

    Item i is micro-batch i mod accumulation of step start_step + i // accumulation.

    Args:
        plan: which samples make a step; its seed seeds the augmentation too.
        sources: one per stream of the plan, in its order.
        transform: frame → crop.
        rank, world_size, accumulation: which slots this rank holds, see `slots_of`.
        start_step: first step, e.g. where training resumes.
        num_steps: steps to stream.
        on_bad_sample: `error`: a damaged sample ends the stream. `skip`: another sample of its stream, chosen by (seed,
            step, slot), stands in for it; the batch says so in `bad`.
        weak_views: batches have `weak`, too.

    Raises:
        ConfigError: sources that do not fit the plan, or a batch that the ranks cannot share.
    """

    def __init__(
        self,
        plan: Plan,
        sources: Sequence[FrameSource],
        transform: Transform,
        *,
        rank: int = 0,
        world_size: int = 1,
        accumulation: int = 1,
        start_step: int = 0,
        num_steps: int = 1,
        on_bad_sample: OnBadSample = "error",
        weak_views: bool = False,
    ) -> None:
        given = [(source.name, len(source.reader)) for source in sources]
        planned = [(stream.name, size) for stream, size in zip(plan.streams, plan.stream_sizes, strict=True)]
        if given != planned:
            raise ConfigError("stream", f"the sources {given} are not the streams of the plan, {planned}")
        self.plan, self.sources, self.transform = plan, tuple(sources), transform
        self.accumulation, self.start_step, self.num_steps = accumulation, start_step, num_steps
        self.on_bad_sample, self.weak_views = on_bad_sample, weak_views
        slot_domains = [sources[stream].domain for stream in plan.slot_streams]
        self._other_slots = {d: [s for s, other in enumerate(slot_domains) if other != d] for d in set(slot_domains)}
        self._labelled_slots = [s for s, stream in enumerate(plan.slot_streams) if sources[stream].labelled]
        self._slots = [slots_of(rank, world_size, accumulation, m, plan.global_batch) for m in range(accumulation)]

    def __len__(self) -> int:
        """Micro-batches of this rank."""
        return self.num_steps * self.accumulation

    def __getitem__(self, index: int) -> Batch:
        """One micro-batch. Its image is channels-last in memory (N×3×H×W by strides), its labels are uint8.

        Raises:
            IndexError: beyond the stream.
            ShardError: a sample cannot be read.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"micro-batch {index} of {len(self)}")
        step, micro = self.where(index)
        refs = self.plan.slots(step, self._slots[micro])
        # The samples of later steps are known: their shards are fetched in the background.
        for ref in self.plan.slots(step + _PREFETCH_STEPS, self._slots[micro]):
            self.sources[ref.stream].reader.prefetch(ref.sample)
        height, width = self.transform.crop_px
        images = np.empty((len(refs), height, width, 3), np.uint8)
        labels = np.empty((len(refs), height, width), np.uint8)
        keys: list[str] = []
        bad: list[str] = []
        weak = [np.empty((0, height, width, 3), np.uint8)]
        for row, ref in enumerate(refs):
            sample = self._sample_or_another(step, ref, bad)
            images[row], labels[row] = sample.image, sample.label
            keys.append(sample.key)
            weak += [] if sample.weak is None else [sample.weak[None]]
        return Batch(
            image=torch.from_numpy(images).permute(0, 3, 1, 2),
            label=torch.from_numpy(labels),
            domain=torch.tensor([self.sources[ref.stream].domain for ref in refs]),
            slot=torch.tensor([ref.slot for ref in refs]),
            step=step,
            keys=tuple(keys),
            bad=tuple(bad),
            unlabelled=torch.tensor([not self.sources[ref.stream].labelled for ref in refs]),
            weak=torch.from_numpy(np.concatenate(weak)).permute(0, 3, 1, 2) if self.weak_views else None,
        )

    def where(self, index: int) -> tuple[int, int]:
        """Step and micro-batch of an item."""
        step, micro = divmod(index, self.accumulation)
        return self.start_step + step, micro

    def _sample_or_another(self, step: int, ref: SlotRef, bad: list[str]) -> Sample:
        """`sample`, or a stand-in for a damaged one that may be skipped; damaged ones are added to `bad`."""
        for attempt in range(_MAX_STAND_INS + 1):
            try:
                return self.sample(step, ref, attempt)
            except SampleError as error:
                if self.on_bad_sample == "error":
                    raise
                bad.append(f"step {step}, {error.where}: {error.problem}")
            # The stand-in depends on the slot alone, not on rank or process.
            generator = numpy_generator(self.plan.seed, "stand-in", step, ref.slot, attempt)
            ref = ref._replace(sample=int(generator.integers(self.plan.stream_sizes[ref.stream])))
        problem = f"{_MAX_STAND_INS + 1} samples in a row are damaged, the last is {bad[-1]}"
        remedy = "run `mgcda shards verify` on its shards; of a Dataset, read these items yourself"
        raise ShardError(f"stream {self.sources[ref.stream].name}", problem, remedy)

    def sample(self, step: int, ref: SlotRef, attempt: int = 0) -> Sample:
        """The crop of one slot.

        Raises:
            SampleError: the sample, or one that was to be mixed or pasted in, is damaged.
        """
        source, frame = self.sources[ref.stream], self._frame(ref)
        generator = self._generator("augment", step, ref, attempt)
        image, label, view = self.transform.cut(frame.image, frame.label, generator)
        weak = image if self.weak_views and not source.labelled else None
        if not source.labelled:
            image, label = self._mixed(image, label, step, ref, attempt)
        image, label = self.transform.finish(image, label, view, generator, source.paste)
        image = self._styled(image, step, ref, attempt)
        for number, change in enumerate(self.transform.own):
            draws = numpy_generator(self.plan.seed, "own", number, step, ref.slot, attempt)
            image, label = change(image, label, draws)
        return Sample(image, label, frame.key, weak)

    def _frame(self, ref: SlotRef) -> _Frame:
        """A sample's image and label, decoded."""
        source = self.sources[ref.stream]
        raw = source.reader.frame(ref.sample, labelled=source.labelled)
        key = f"{source.name}/{raw.key}"
        if not source.labelled:
            return _Frame(raw.image, np.full(raw.image.shape[:2], VOID, np.uint8), key)
        if raw.ids is None:
            problem = f"the sample has no label, but stream {source.name} is labelled"
            raise SampleError(raw.where, problem, "set labelled: false on the stream, or use labelled data")
        return _Frame(raw.image, as_pixels(cv2.LUT(raw.ids, source.lut)), key)

    def _mixed(self, image: Pixels, label: Pixels, step: int, ref: SlotRef, attempt: int) -> tuple[Pixels, Pixels]:
        """A crop without labels, under classes of a labelled crop of this step, if the draws of the slot say so."""
        generator = self._generator("class-mix", step, ref, attempt)
        if not self._labelled_slots or generator.random() >= self.transform.augment.class_mix:
            return image, label
        other = self._slot_of(step, ref.slot, self._labelled_slots, generator)
        frame = self._frame(other)
        # The crop that the other slot itself has in this step.
        own_draws = self._generator("augment", step, other)
        other_image, other_label, _ = self.transform.cut(frame.image, frame.label, own_draws)
        return with_classes_of(other_image, other_label, image, label, generator)

    def _styled(self, image: Pixels, step: int, ref: SlotRef, attempt: int) -> Pixels:
        """The crop, as a picture of another domain of this step looks, if the draws of the slot say so."""
        augment, others = self.transform.augment, self._other_slots[self.sources[ref.stream].domain]
        generator = self._generator("style", step, ref, attempt)
        if not others or generator.random() >= augment.style:
            return image
        other = self._slot_of(step, ref.slot, others, generator)
        target = self.sources[other.stream].reader.frame(other.sample, labelled=False).image
        return with_style_of(resized(target, *self.transform.crop_px), image, augment.style_band)

    def _slot_of(self, step: int, own: int, slots: Sequence[int], generator: np.random.Generator) -> SlotRef:
        """One of these slots, with the sample that it has in this step.

        Of a plan with groups, one that reads from the same group as slot `own`: its shards are at hand.
        """
        batch, groups = self.plan.global_batch, self.plan.groups
        part = own * groups // batch  # the batch is cut evenly, and every stream has slots in every part
        first, end = (bisect_left(slots, edge * batch // groups) for edge in (part, part + 1))
        slot = slots[first + int(generator.integers(end - first))]
        return self.plan.slots(step, range(slot, slot + 1))[0]

    def _generator(self, purpose: str, step: int, ref: SlotRef, attempt: int = 0) -> np.random.Generator:
        """Draws of one slot. A stand-in has draws of its own: the damaged part may be what was to be mixed in."""
        return numpy_generator(self.plan.seed, purpose, step, ref.slot, *([attempt] if attempt else []))
