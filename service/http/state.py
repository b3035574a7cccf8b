"""State: everything of the application that outlives a request; `app.py` makes it."""

from dataclasses import dataclass

from starlette.requests import Request

from service.artifact import ReadManifest
from service.errors import ArtifactError, BadParameter
from service.http.auth import Keys
from service.http.fetch import Fetcher
from service.http.uploads import Limits
from service.metrics import Metrics
from service.pipeline.budget import Budget
from service.pipeline.registry import Variants
from service.pipeline.shadow import Shadow
from service.reading.plates import restrict


@dataclass(frozen=True)
class State:
    """What routes and middleware share. `log_plates`: whether the access log may hold texts. `regions`:
    what is read where a request names none."""

    variants: Variants
    budget: Budget
    shadow: Shadow | None
    metrics: Metrics
    limits: Limits
    keys: Keys
    log_plates: bool
    regions: tuple[str, ...] = ()
    fetcher: Fetcher | None = None

    def __post_init__(self) -> None:
        """Raise ArtifactError where the active variant does not read the regions. No such one becomes active later."""
        self.variants.check = self._check
        self._check(self.variants.active.manifest)

    def _check(self, manifest: ReadManifest) -> None:
        try:
            restrict(manifest.grammar, None, None, self.regions)
        except BadParameter as error:
            raise ArtifactError(f"{manifest.variant} does not read all regions of this server. {error}") from error


def state_of(request: Request) -> State:
    """The state of the application that a request came to."""
    state: State = request.app.state.lpr
    return state
