"""Finding: a photograph to the plates in it, by a finder and the refiner that belongs to it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from model_builder import evaluate
from model_builder.render.scene import Scene, SceneRenderer
from model_builder.tasks import labelled_scenes
from model_builder.tasks.base import Figures
from model_builder.tasks.labelled_scenes import LabelledScenes
from model_builder.train.data import DEVELOPMENT_SEED, VALIDATION_SEED
from model_builder.train.finder import overlap
from service import artifact as contract
from service.artifact import Artifact, Finds, Tensor
from service.backends import Backend, load
from service.finding.maps import CHANNELS, STRIDE
from service.finding.refine import Form, Refined
from service.finding.search import Search

# Height and width of the images that serving searches; the last one is for plates that fill the photograph.
SIZES: Final = ((384, 640), (640, 384), (544, 960), (960, 544), (224, 224))
_SQUARE: Final = (320, 320)
_CANVASES: Final = ((640, 384), (384, 640), (960, 544), _SQUARE)  # width and height of scenes, one after the other
_RENDERED: Final = 500  # scenes, with 541 plates
_ENLARGED: Final = 4  # times that a probe's scene is drawn smaller, so that its file is small
_PROBE_SEED: Final = VALIDATION_SEED - 100

Floats = NDArray[Any]
Find = Callable[[NDArray[np.uint8]], Sequence[Refined]]  # a BGR image to its plates
FOUND, ALARM = 0.5, 0.1  # overlaps from which a plate is found, and below which a result is a false alarm


class RenderedScenes:
    """`count` scenes from the seed `first` on, on procedural backgrounds; drawn when they are asked for."""

    def __init__(self, count: int, first: int = VALIDATION_SEED) -> None:
        self._count, self._first, self._renderer = count, first, SceneRenderer()

    def __len__(self) -> int:
        return self._count

    def digest(self) -> str:
        """How many they are."""
        return f"{self._count} rendered scenes"

    def __iter__(self) -> Iterator[Scene]:
        for number in range(self._count):
            yield self._renderer.scene(self._first + number, _CANVASES[number % len(_CANVASES)])


@dataclass(frozen=True)
class Finding:
    """The task of finders; examples are lists of `Scene`."""

    refiner: str = "refiner"
    sizes: tuple[tuple[int, int], ...] = SIZES
    verb: ClassVar = "finds"
    right: ClassVar = "found"
    examples: ClassVar = "plates"
    any_size: ClassVar = True
    max_batch: ClassVar = 1  # an engine keeps the memory of its largest batch

    def probe(self) -> Sequence[NDArray[np.uint8]]:
        renderer = SceneRenderer()
        found = []
        for height, width in self.sizes:
            scene = renderer.scene(_PROBE_SEED, (width // _ENLARGED, height // _ENLARGED))
            found.append(scene.image.repeat(_ENLARGED, 0).repeat(_ENLARGED, 1)[None])
        return found

    def describe(self, outputs: Sequence[NDArray[np.float32]], **shared: Any) -> Finds:
        cells = f"H/{STRIDE}", f"W/{STRIDE}"
        return Finds(
            **shared,
            input=Tensor(dtype="uint8", shape=("N", "H", "W", 3), description="BGR photograph, reduced, on grey"),
            output=Tensor(
                dtype="float32",
                shape=("N", *cells, CHANNELS),
                description="logit of a plate's centre, and x and y of its corners from the cell's, in cells",
            ),
            sizes=self.sizes,
            stride=STRIDE,
            refiner=self.refiner,
        )

    def sets(
        self, real: Sequence[Path], rendered: int | None, *taken: str
    ) -> dict[str, RenderedScenes | LabelledScenes]:
        return {
            "rendered": RenderedScenes(rendered or _RENDERED),
            **labelled_scenes.read_sets(real, "rendered", *taken),
        }

    def development(self, count: int) -> NDArray[np.uint8]:
        renderer = SceneRenderer()
        return np.stack([renderer.scene(DEVELOPMENT_SEED + number, _SQUARE).image for number in range(count)])

    def calibrate(self, artifact: Artifact, backend: Backend, examples: Any) -> dict[str, Any]:
        return {}

    def measure(self, artifact: Artifact, backend: Backend, examples: Iterable[Scene]) -> Figures:
        """Figures of the finder with its refiner; of the finder alone where its refiner is not published yet."""
        tally = Tally()
        with searching(artifact, backend) as search:
            for scene in tqdm(examples, artifact.manifest.variant, unit="scene", leave=False, dynamic_ncols=True):
                found = [plate.corners for plate in search(scene.image)]
                tally.add(found, [plate.corners for plate in scene.plates], scene.unsure)
        return tally.figures()


@contextmanager
def searching(artifact: Artifact, backend: Backend) -> Iterator[Find]:
    """What the server would find in a photograph with a finder, loaded as `backend`, and its refiner.

    Where that one is not published yet, what the finder alone finds.
    """
    manifest, root = artifact.finder, artifact.folder.parent
    if manifest.refiner not in contract.variants(root):
        print(f"there is no {manifest.refiner} in {root}: {manifest.variant} is measured without")
        alone = Search(backend.infer, _no_refiner, manifest.sizes, Form())
        yield lambda image: [
            Refined(quad, float(probability), 1, "other", False)
            for probability, quad in zip(*alone.rough(image), strict=True)
        ]
        return
    refiner = contract.find(root, manifest.refiner)
    form = Form(refiner.refiner.size, refiner.refiner.around, refiner.refiner.colours)
    with closing(load(refiner)) as refining:
        yield Search(backend.infer, refining.infer, manifest.sizes, form)


def _no_refiner(_crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    raise AssertionError("the finder alone is asked")


@dataclass
class Tally:
    """What was found in images. `errors` are, of each plate found, the largest distance of a corner in its widths."""

    images: int = 0
    plates: int = 0
    false: int = 0
    errors: list[float] = field(default_factory=list)

    @property
    def corner_error(self) -> float | None:
        """The median of `errors`; None where nothing was found."""
        return round(float(np.median(self.errors)), 4) if self.errors else None

    def add(self, found: Sequence[Floats], plates: Sequence[Floats], unsure: Sequence[Floats] = ()) -> None:
        """Count what was `found` (4, 2) in an image that shows `plates`, and `unsure` ones that may be found or not."""
        self.images += 1
        self.plates += len(plates)
        for plate in plates:
            best = max(found, key=lambda quad: overlap(quad, plate), default=None)
            if best is not None and overlap(best, plate) >= FOUND:
                self.errors.append(float(np.hypot(*(best - plate).T).max() / np.hypot(*(plate[1] - plate[0]))))
        known = [*plates, *unsure]
        self.false += sum(all(overlap(quad, outline) < ALARM for outline in known) for quad in found)

    def figures(self) -> Figures:
        """Of at least one image and plate."""
        score = evaluate.wilson(len(self.errors), self.plates)
        return Figures(score, self.corner_error, round(self.false / self.images, 4))
