"""A crop of one section under one setting, as fast as it can be had: for fitting by eye.

Affinities, embedding map and fragments come from one pass of the network. Statistics are the only
slow part of a setting. At first they are measured on a few small windows; `PreviewMaker.measure`
measures them as a run does, one pair of sections a step, so that nobody who moves a slider has to
wait for it.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from napari_cad.core.affinity import pair_affinities, quantise
from napari_cad.core.config import FragmentConfig
from napari_cad.core.device import pick_device
from napari_cad.core.fit import Fitter
from napari_cad.core.fit_job import PreviewMade
from napari_cad.core.fragments import section_fragments
from napari_cad.core.network import fold_batch_norm
from napari_cad.core.preprocessing import Preprocessing
from napari_cad.core.projection import fit_basis, sample_voxels
from napari_cad.core.registry import resolve_checkpoint
from napari_cad.core.segmentation_job import default_intensity
from napari_cad.core.tiling import Padding

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from napari_cad.core.config import InferenceConfig
    from napari_cad.core.fit_job import WantedPreview
    from napari_cad.core.intensity import IntensityMapping
    from napari_cad.core.network import StudentNetwork
    from napari_cad.core.projection import EmbeddingBasis
    from napari_cad.core.volume import EMVolume

#: Voxels of a crop that the colours of its setting are fitted on.
_SAMPLED_VOXELS = 16_384

#: Settings whose colours are kept.
_KEPT_BASES = 64


class PreviewMaker:
    """Makes previews of one stack; remembers checkpoints, statistics and colours.

    Parameters
    ----------
    volume : EMVolume
        The whole stack: statistics are measured on sections spread over it.
    inference : InferenceConfig
        Where the network runs; it sees a crop at once, so tile and batch are of no account.

    Raises
    ------
    ConfigError
        See `pick_device`.
    """

    def __init__(self, volume: EMVolume, inference: InferenceConfig) -> None:
        self._volume = volume
        self._inference = inference
        self._device = pick_device(inference.device, inference.precision)
        self._fitters: dict[str, Fitter] = {}
        self._mappings: dict[tuple[str, IntensityMapping | None], IntensityMapping] = {}
        self._measuring: dict[tuple[str, Preprocessing, int], Iterator[None]] = {}
        self._bases: OrderedDict[tuple[object, ...], EmbeddingBasis] = OrderedDict()
        self._folded: tuple[tuple[object, ...], StudentNetwork] | None = None

    def make(self, wanted: WantedPreview) -> PreviewMade:
        """Make what is wanted, with the statistics that are there.

        Parameters
        ----------
        wanted : WantedPreview
            Its crop must lie within the stack.

        Returns
        -------
        PreviewMade
            With the affinities and fragments that a run of this crop alone would have, where it
            is not `rough`.

        Raises
        ------
        NapariCadError
            If the checkpoint cannot be loaded, or its statistics or the intensities cannot be
            had.
        """
        started = time.perf_counter()
        fitter, mapping = self._fitter(wanted), self._mapping(wanted)
        rough = not fitter.is_measured(mapping, wanted.fit)
        key = (wanted.checkpoint, mapping, wanted.fit, rough)
        if self._folded is None or self._folded[0] != key:
            folded = fold_batch_norm(fitter.network(mapping, wanted.fit)).to(self._device.name)
            folded = folded.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            self._folded = key, folded
        preprocessing = Preprocessing.of(mapping, wanted.fit)
        affinities, embedding = self._run(self._folded[1], wanted, preprocessing)
        basis = self._basis(key, embedding)
        return PreviewMade(
            wanted,
            affinities,
            basis.project(embedding),
            section_fragments(affinities, FragmentConfig()),
            rough,
            time.perf_counter() - started,
        )

    def measure(self, wanted: WantedPreview) -> bool:
        """Go one step towards the statistics that a run under this setting has.

        Returns
        -------
        bool
            Whether they are there.

        Raises
        ------
        VolumeError
            See `measure_statistics`.
        """
        fitter, mapping = self._fitter(wanted), self._mapping(wanted)
        if fitter.is_measured(mapping, wanted.fit):
            return True
        # another strength needs the same statistics
        preprocessing = Preprocessing.of(mapping, wanted.fit)
        key = (wanted.checkpoint, preprocessing, wanted.fit.sampled_sections)
        if key not in self._measuring:
            self._measuring[key] = fitter.measure(mapping, wanted.fit)
        for _ in self._measuring[key]:
            return False
        del self._measuring[key]
        return True

    def _fitter(self, wanted: WantedPreview) -> Fitter:
        name = wanted.checkpoint
        if name not in self._fitters:
            self._fitters[name] = Fitter(self._volume, resolve_checkpoint(name), self._inference)
        return self._fitters[name]

    def _mapping(self, wanted: WantedPreview) -> IntensityMapping:
        key = wanted.checkpoint, wanted.intensity
        if key not in self._mappings:
            metadata = self._fitter(wanted).checkpoint.metadata
            chosen = wanted.intensity or default_intensity(self._volume, metadata)
            self._mappings[key] = chosen.resolve(self._volume)
        return self._mappings[key]

    def _basis(self, key: tuple[object, ...], embedding: npt.NDArray[np.float32]) -> EmbeddingBasis:
        """Colours of a setting: those that its first crop was given."""
        if key not in self._bases:
            sample = sample_voxels(embedding, _SAMPLED_VOXELS)
            self._bases[key] = fit_basis([sample], "embedding")
            while len(self._bases) > _KEPT_BASES:
                self._bases.popitem(last=False)
        return self._bases[key]

    @torch.inference_mode()
    def _run(
        self, network: StudentNetwork, wanted: WantedPreview, preprocessing: Preprocessing
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        """Affinities (3, Y, X) and embedding (E, Y, X) of a crop of a section."""
        first = max(wanted.z - 1, 0)
        crop = self._volume.crop((first, wanted.z + 1), wanted.rows, wanted.columns)
        own = crop.shape[1:]
        height, width = preprocessing.network_size(own)
        pads = [Padding.to_multiple(n) for n in (height, width)]
        prepared = [
            np.pad(
                preprocessing(crop.section(z), z=first + z),
                [(pad.before, pad.after) for pad in pads],
                mode="reflect",
            )
            for z in range(crop.n_sections)
        ]
        with self._device.autocast():
            features = [
                network.encode_section(torch.from_numpy(section)[None, None].to(self._device.name))
                for section in prepared
            ]
            # section 0 is paired with itself
            pair = network.embed_pair(features[0], features[-1])
        inner = [
            slice(pad.before, pad.before + n) for pad, n in zip(pads, (height, width), strict=True)
        ]
        prev, embedding = (part[:, :, inner[0], inner[1]] for part in pair)
        affinities = quantise(pair_affinities(prev, embedding))[0].cpu().numpy()
        embedding = embedding.float()
        if own != (height, width):
            embedding = F.interpolate(embedding, own, mode="bilinear", align_corners=False)
        return (
            preprocessing.affinities_back(affinities, own),
            np.ascontiguousarray(embedding[0].cpu().numpy()),
        )
