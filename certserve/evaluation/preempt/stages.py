"""An image and a stage -> a row: what the model that serves says of the image, moved, attacked or encoded anew."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from certserve import images
from certserve.attacks.norms import Norm
from certserve.attacks.pgd import PGD, Start
from certserve.attacks.smoothed import SmoothedNetwork
from certserve.backends.torch import gradients
from certserve.bundle import Bundle
from certserve.datasets import Dataset
from certserve.defences.preemptive.adversary import reconstructed
from certserve.defences.preemptive.eight_bit import Moved, robustify, seeded
from certserve.defences.preemptive.jpeg import through_jpeg
from certserve.defences.preemptive.methods import Bilevel, CertMargin, How
from certserve.endpoints.local import LocalModel
from certserve.evaluation.preempt.question import Question
from certserve.evaluation.preempt.rows import Row, Rows, whole
from certserve.images import EncodedImage, Geometry, ImageFit, Limits
from certserve.noise.grid import LEVELS
from certserve.smoothing.outcomes import Certificate, Prediction

__all__ = ["DEFAULT", "SEARCHES", "Stages"]

Pixels: TypeAlias = npt.NDArray[np.uint8]

_STEP = 0.25  # of PGD, in units of epsilon
_SEED_BYTES = 7
DEFAULT = "default"
SEARCH = CertMargin()
SEARCHES: Mapping[str, How] = {
    DEFAULT: SEARCH,
    "ten-times": CertMargin(steps=94, draws=100),  # ten times the passes of the default
    "bilevel": Bilevel(),
}


class Stages:
    """What makes the rows; each method takes the image's position in the data and gives its row.

    Args:
        rows: of the stages before, by name; read when a row is made. folder: where images go.
    """

    def __init__(
        self,
        model: LocalModel,
        bundle: Bundle,
        data: Dataset,
        question: Question,
        folder: Path,
        rows: Mapping[str, Rows],
    ) -> None:
        self._model, self._bundle, self._data, self._question = model, bundle, data, question
        self._folder, self._rows = folder, rows
        self._network = SmoothedNetwork(bundle, question.precision)
        self._searched = gradients(bundle)
        self._sigma = question.sigma or bundle.defaults.sigma

    def clean(self, i: int) -> Row:
        """What is predicted of the image as it is."""
        pixels = self._pixels(i)
        return self._row(i, label=int(self._data.labels[i]), pixels=images.pixel_digest(pixels), **self._ask(pixels))

    def moved(self, i: int, search: str) -> Row:
        """The image, moved; its file is written first."""
        pixels = self._pixels(i)
        answer = np.array([self._before(i)["answer"]])
        found: Moved = robustify(
            self._searched,
            pixels[None],
            answer,
            budget=self._question.budget,
            sigma=self._sigma,
            how=self._how(search),
            colour=self._bundle.colour,
            generator=seeded(_seed(f"search {search}", pixels)),
        )
        png = images.encode_png(found.images[0], self._bundle.colour)
        whole(self.file(i, search), png)
        if search == DEFAULT:
            searched = io.BytesIO()
            np.save(searched, found.searched[0].astype(np.float32))
            whole(self.file(i, "searched", ".npy"), searched.getvalue())
        read = self._decoded(png)
        return self._row(
            i,
            passes=int(found.passes[0]),
            judged_safe=bool(found.successes[0]),
            squared_steps=_squared(found.images[0], pixels),
            png_unchanged=bool((read == found.images[0]).all()),
        )

    def after(self, i: int, search: str) -> Row:
        """What is predicted of the moved image's file."""
        return self._row(i, **self._ask(self.read(i, search)))

    def certified_before(self, i: int) -> Row:
        """The certificate of the image as it is."""
        return self._row(i, **self._certify(self._pixels(i)))

    def certified(self, i: int, search: str) -> Row:
        """The certificate of the moved image's file."""
        return self._row(i, **self._certify(self.read(i, search)))

    def unrounded(self, i: int) -> Row:
        """The certificate of where the search had led in real numbers, as float32."""
        return self._row(i, **self._certify(np.load(self.file(i, "searched", ".npy"))))

    def jpeg(self, i: int, quality: int, search: str) -> Row:
        """What the moved image becomes as JPEG, colours at half the resolution; its answer and certificate."""
        before = self.read(i, search)
        after = through_jpeg(before, self._bundle.colour, quality)
        certificate = self._certify(after)
        predicted = {f"predicted_{name}": value for name, value in self._ask(after).items()}
        return self._row(i, squared_steps=_squared(after, before), **certificate, **predicted)

    def attacked(self, i: int, robustified: bool) -> Row:
        """What is predicted once randomized PGD had its way; an image answered wrongly before is not attacked."""
        pixels, asked = (self.read(i), "after") if robustified else (self._pixels(i), "clean")
        before = self._rows[asked][int(self._data.idx[i])]
        if not self._right(i, before):
            return self._row(i, attacked=False, answer=before["answer"], abstained=before["abstained"])
        found = self._pgd(i, pixels, self._question.epsilon, "pgd")
        return self._row(i, attacked=True, squared_steps=_squared(found, pixels), **self._ask(found))

    def ensemble(self, i: int, robustified: bool) -> Row:
        """As `attacked`, by each attack of the APGD ensemble; the answer is a wrong one if any attack gets one."""
        pixels, asked = (self.read(i), "after") if robustified else (self._pixels(i), "clean")
        before = self._rows[asked][int(self._data.idx[i])]
        answer = {"answer": before["answer"], "abstained": before["abstained"]}
        if not self._right(i, before):
            return self._row(i, attacked=False, **answer, attempts=[])
        labels = self._data.labels[i : i + 1]
        found = self._network.ensemble(
            pixels[None], labels, epsilon=self._question.epsilon, sigma=self._sigma, seed=_seed("ensemble", pixels)
        )
        attempts = [{"attack": name, **self._ask(made[0])} for name, made in found.items()]
        wrong = [attempt for attempt in attempts if not self._right(i, attempt)]
        answer |= {name: wrong[0][name] for name in answer} if wrong else {}
        return self._row(i, attacked=True, **answer, attempts=attempts)

    def adversary(self, i: int) -> Row:
        """What the adversary reaches who guesses the original; what counts is within epsilon of the true one."""
        pixels, moved = self._pixels(i), self.read(i)
        after = self._rows["after"][int(self._data.idx[i])]
        if not (self._right(i, self._before(i)) and self._right(i, after)):
            return self._row(i, attacked=False, attempts=[])
        guess = reconstructed(
            self._network.logits,
            moved[None],
            np.array([after["answer"]]),
            budget=self._question.budget,
            sigma=self._sigma,
            how=SEARCH,
            generator=seeded(_seed("reconstruct", moved)),
        )[0]
        attempts = [self._attempt(i, guess, share) for share in self._question.shares]
        return self._row(i, attacked=True, squared_steps=_squared(guess, pixels), attempts=attempts)

    def _attempt(self, i: int, guess: Pixels, share: float) -> dict[str, Any]:
        found = self._pgd(i, guess, share * self._question.epsilon, f"adversary {share!r}")
        squared = _squared(found, self._pixels(i))
        within = squared <= (Fraction(self._question.epsilon) * LEVELS) ** 2
        return {"share": share, "squared_steps": squared, "within": within, **(self._ask(found) if within else {})}

    def _pgd(self, i: int, pixels: Pixels, epsilon: float, what: str) -> Pixels:
        how = PGD(
            norm=Norm.L2,
            steps=self._question.steps,
            step=_STEP,
            sigma=self._sigma,
            draws=self._question.draws,
            start=Start.RANDOM,
        )
        labels = self._data.labels[i : i + 1]
        seed = _seed(what, pixels)
        found: Pixels = self._network.attacked(pixels[None], labels, epsilon=epsilon, how=how, seed=seed)[0]
        return found

    def file(self, i: int, folder: str = DEFAULT, ending: str = ".png") -> Path:
        """Where an image is, or goes."""
        return self._folder / "images" / folder / f"{self._data.idx[i]}{ending}"

    def read(self, i: int, search: str = DEFAULT) -> Pixels:
        """The moved image, from its file."""
        return self._decoded(self.file(i, search).read_bytes())

    def _decoded(self, data: bytes) -> Pixels:
        bundle = self._bundle
        geometry = Geometry(*bundle.shape, bundle.colour, bundle.resize)
        return images.decode(EncodedImage(data), geometry, ImageFit.EXACT, Limits()).astype(np.uint8)

    def _pixels(self, i: int) -> Pixels:
        return np.ascontiguousarray(self._data.images[i])

    def _before(self, i: int) -> Row:
        return self._rows["clean"][int(self._data.idx[i])]

    def _how(self, search: str) -> How:
        if search == self._question.aware_search:
            return replace(SEARCH, jpeg=self._question.aware)
        return SEARCHES[search]

    def _right(self, i: int, row: Row) -> bool:
        return bool(row["answer"] == self._data.labels[i] and not row["abstained"])

    def _row(self, i: int, **fields: Any) -> Row:
        return {"idx": int(self._data.idx[i]), **fields}

    def _ask(self, pixels: npt.NDArray[Any]) -> dict[str, Any]:
        """Predict's answer, or the class with most votes where it abstains."""
        outcome = self._model.predict(pixels, sigma=self._question.sigma)
        if isinstance(outcome, Prediction):
            return {"answer": outcome.label, "abstained": False}
        return {"answer": outcome.candidate, "abstained": True}  # type: ignore[union-attr] # no budget, no guard

    def _certify(self, pixels: npt.NDArray[Any]) -> dict[str, Any]:
        """Certify's answer, its radius (0 where it abstains), and the votes for that class."""
        asked = self._question
        outcome = self._model.certify(pixels, sigma=asked.sigma, n0=asked.n0, n=asked.n, alpha=asked.alpha)
        certain = isinstance(outcome, Certificate)
        answer: int = outcome.label if certain else outcome.candidate  # type: ignore[union-attr] # as in `_ask`
        votes = outcome.estimation[-1].counts[answer]  # type: ignore[union-attr]
        radius: float = outcome.radius if isinstance(outcome, Certificate) else 0.0
        return {"answer": answer, "abstained": not certain, "radius": radius, "votes": votes}


def _seed(what: str, pixels: Pixels) -> int:
    """Of noise that no answer of the model draws: the same for the same image."""
    return int.from_bytes(
        hashlib.sha256(f"{what} {images.pixel_digest(pixels)}".encode()).digest()[:_SEED_BYTES], "big"
    )


def _squared(one: Pixels, other: Pixels) -> int:
    """The squared L2 distance, in steps of 1/255."""
    return int(((one.astype(np.int64) - other) ** 2).sum())
