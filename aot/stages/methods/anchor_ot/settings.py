"""Settings that both phases of AOT share: what transport costs, how it is solved and how a plan is applied."""

from __future__ import annotations

from torch import Tensor

from ....transport.costs import METRICS, Cost
from ....transport.sinkhorn import uniform_marginal, weighted_marginal
from ....transport.solvers import SOLVERS, Solver
from ...base import Stage
from ...clips import CUTS, clips_at, dynamic_clips, fixed_clips, parse_times
from ...options import Setting

SCALING = Setting(
    1.0,
    "Lambda: weight of the transported tokens against the anchor itself. An anchor becomes (a + lambda sum p x) / "
    "(1 + lambda sum p).",
    low=0,
    high=1e6,
    step=0.1,
    advanced=True,
)
EPS = Setting(
    0.1,
    "Epsilon: entropic regularisation of the transport, in units of cost. The kernel is exp(-cost / epsilon).",
    low=1e-4,
    high=10,
    step=0.01,
    advanced=True,
)
MAX_ITERATIONS = Setting(100, "Sinkhorn iterations at most.", low=1, high=100_000, advanced=True)
METRIC = Setting(
    "cosine",
    "Cost of carrying one token to another: 1 - cosine, or the squared Euclidean distance in units of the "
    "mean squared length.",
    choices=METRICS,
    advanced=True,
)
MARGINALS = Setting(
    "uniform",
    "Mass of each token in the transport: the same for all, or by the attention it receives at the deep layer.",
    choices=("uniform", "importance"),
    advanced=True,
)
AGGREGATION = Setting(
    "released",
    "How much a transported token weighs: as the authors released it, by the paper's formula, or counts: every "
    "token weighs as one token.",
    choices=("released", "paper", "counts"),
    advanced=True,
)
SOLVER = Setting(
    "released",
    "released and early: Sinkhorn stopped as the authors do, phase I over all frames together or each frame "
    "for itself (which a streamed video needs). "
    "sinkhorn and log: iterated to the tolerance, log for small epsilon. emd, pot-log, partial: POT's, one "
    "frame after another. unbalanced: may miss the marginals. nearest: no transport, each token goes whole to "
    "its cheapest anchor.",
    choices=tuple(SOLVERS),
    advanced=True,
)
TOLERANCE = Setting(
    1e-6,
    "Error of the marginals that sinkhorn, log, pot-log and unbalanced iterate to.",
    low=1e-12,
    high=1,
    step=1e-6,
    advanced=True,
)
RELAXATION = Setting(
    1.0,
    "Solver unbalanced: weight of the marginals; the larger, the more balanced.",
    low=1e-4,
    high=1e6,
    step=0.1,
    advanced=True,
)
MASS = Setting(
    0.9,
    "Solver partial: share of the tokens' mass that is transported, the cheapest first.",
    low=0.01,
    high=1,
    step=0.05,
    advanced=True,
)
KEYFRAME_SHARE = Setting(
    0.7,
    "Share of an exact budget that keyframe tokens take, as they were and updated; distinct tokens take the "
    "rest. As released with 126 anchors and keep ratio 0.3 it comes to about 0.7.",
    low=0,
    high=1,
    step=0.05,
    advanced=True,
)
RANKING = Setting(
    "video",
    "Which tokens an exact budget keeps as distinct: those least explained in the whole video, or the same "
    "share of every frame after a keyframe. The time factor makes frames near the keyframe explain less, so "
    "video favours them.",
    choices=("video", "frame"),
    advanced=True,
)
CLIP_LENGTH = Setting(
    4, "Frames in a clip; its first is the keyframe. The paper uses 4 for 32 frames, 8 for 64.", low=1, high=4096
)
CLIPS = Setting(
    "fixed",
    "How the video is cut into clips. fixed: by the clip length. dynamic: where consecutive frames differ. "
    "times: at the cut times. one: not at all.",
    choices=CUTS,
)
CUT_SIMILARITY = Setting(
    0.8,
    "Clips dynamic: cut where the cosine of consecutive frames is under this.",
    low=-1,
    high=1,
    step=0.05,
    advanced=True,
)
CUT_LOWEST = Setting(7, "Clips dynamic: cut at this many lowest cosines too.", low=0, high=4096, advanced=True)
CUT_TIMES = Setting("", "Clips times: seconds at which a clip begins, 1.5 3 7.25 for instance.", advanced=True)
EXPLAINED_BY = Setting(
    "plan",
    "What says how well anchors explain a token. plan: the largest share of it that goes to one anchor, as released, "
    "which is blind to how far they are: with fixed marginals a plan is the same if a token is dearer to all of them. "
    "cost: exp(-c), with c what its cheapest anchor costs.",
    choices=("plan", "cost"),
    advanced=True,
)
ORDER = Setting(
    "released",
    "Order of a clip's tokens. released: keyframe, distinct, updated keyframe. time: by frame, row and column, "
    "an updated token right after its original.",
    choices=("released", "time"),
    advanced=True,
)
REPEAT = Setting(
    True,
    "Give keyframe tokens twice, as they were and updated, as the authors do; false: only the updated ones.",
    advanced=True,
)


class TransportStage(Stage):
    """A stage with the settings of a transport."""

    solver: str
    eps: float
    max_iterations: int
    tolerance: float
    relaxation: float
    mass: float
    metric: str
    spatial_weight: float
    marginals: str

    @property
    def transport(self) -> Solver:
        """The solver its settings describe."""
        return Solver(self.solver, self.eps, self.max_iterations, self.tolerance, self.relaxation, self.mass)

    def cost(self, limit: float = 1.0) -> Cost:
        """The cost its settings describe, cosines clamped to ``limit``."""
        return Cost(self.metric, self.spatial_weight, limit)

    def marginal(self, importance: Tensor, valid: Tensor) -> Tensor:
        """(B, M) importance and validity to the mass of each token."""
        return weighted_marginal(importance, valid) if self.marginals == "importance" else uniform_marginal(valid)


class ClipStage(Stage):
    """A stage with the settings of a segmentation."""

    clips: str
    clip_length: int
    cut_times: str
    cut_similarity: float
    cut_lowest: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clips == "times":
            parse_times(self.cut_times)

    def cut(self, timestamps: Tensor) -> tuple[int, ...] | None:
        """Clip lengths; None where they depend on what the frames show."""
        frames = len(timestamps)
        if self.clips == "times":
            return clips_at(parse_times(self.cut_times), timestamps)
        return {"fixed": fixed_clips(frames, self.clip_length), "one": (frames,)}.get(self.clips)

    def cut_by_content(self, frame_features: Tensor) -> tuple[int, ...]:
        """Clip lengths of dynamic clips, from (T, D) features."""
        return dynamic_clips(frame_features, self.cut_similarity, self.cut_lowest)
