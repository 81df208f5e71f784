"""The records that flow from one step to the next: data only, no behaviour to speak of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol

from annotated_types import Ge, Gt, Lt

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray
    from torch import Tensor, nn

Progress = Callable[[str, int, int], None]
"""Called with a label, how much is done, and how much there is.

Where there is nothing, the label is a line about what has ended, to be kept.
"""

# ------------------------------------------------------------------ data

UNKNOWN_CENTRE = "unknown"
"""The centre of patients of whom none is known."""

PARTS = ("train", "validation", "test")
"""The parts of a fold, in the order in which they are used."""


@dataclass(frozen=True)
class Files:
    """Images that lie as files below ``root``; the cohort's ``image`` column is relative to it."""

    root: Path


@dataclass(frozen=True)
class Rendered:
    """Images that a generator draws.

    Attributes
    ----------
    recipe
        Names generator, version and settings: with the image's name it stands for the pixels.
    render
        Picklable; image name -> uint8 array ``(height, width)``.
    """

    recipe: str
    render: Callable[[str], NDArray[np.uint8]]


@dataclass(frozen=True)
class Cohort:
    """Patients, their images and outcomes.

    Attributes
    ----------
    name
        As tables call it.
    table
        One row per image, a clean range index. Columns ``patient_id`` (str), ``image`` (str),
        ``source`` (key into ``sources``), ``label`` (int, index into ``classes``; one value per
        patient), ``centre`` (str), ``order`` (float, position in time, NaN if unknown), then any
        covariates and other descriptive columns, such as ``where`` ("metadata.csv row 12").
    classes
        Names of the outcome's values; in a binary task the second is the positive one.
    sources
        Where images come from, by name.
    covariates
        Columns of ``table`` that the metadata baselines may read.
    exclusions
        Columns ``item``, ``reason``: every row or file left out.
    risk
        True class probabilities ``(images, classes)`` where a generator knows them.
    synthetic
        True when no patient stands behind the images.
    tables
        The folder of the tables that the column ``where`` names, if there are any.
    distinct_spellings
        Whether ids that differ only in how they are written belong to different patients.
    digests
        One per image: of the file's bytes, or of the generator's recipe and the image's name.
        Computed once, by :func:`.imaging.content.with_digests`; a builder leaves it out.
    notes
        How the reader took what may be read in several ways, in sentences.
    """

    name: str
    table: pd.DataFrame
    classes: tuple[str, ...]
    sources: Mapping[str, Files | Rendered]
    covariates: tuple[str, ...] = ()
    exclusions: pd.DataFrame | None = None
    risk: NDArray[np.float64] | None = None
    synthetic: bool = False
    tables: Path | None = None
    distinct_spellings: bool = False
    digests: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.digests is not None and len(self.digests) != len(self.table):
            raise ValueError(f"{len(self.digests)} digests of {len(self.table)} images")

    def __len__(self) -> int:
        return len(self.table)

    @cached_property
    def patients(self) -> tuple[NDArray[np.intp], NDArray[np.object_]]:
        """The patient of each image as a number, and the sorted ids that are numbered so."""
        import numpy as np
        import pandas as pd

        numbers, ids = pd.factorize(self.table["patient_id"], sort=True)
        return np.asarray(numbers, dtype=np.intp), np.asarray(ids, dtype=object)


@dataclass(frozen=True)
class ImageOptions:
    """How a decoded image becomes the square of pixels that every model starts from.

    Attributes
    ----------
    channels
        1 for radiographs, 3 for colour images.
    minmax
        Stretch each image to the full range 0 to 255, as the study does.
    equalise
        Histogram equalisation, as the study does for AIforCOVID.
    crop_borders
        Cut off constant black borders first.
    fit
        ``stretch`` changes the aspect ratio, ``pad`` keeps it with black bars, ``crop`` keeps it
        and takes the central square.
    """

    channels: Literal[1, 3] = 1
    minmax: bool = True
    equalise: bool = False
    crop_borders: bool = False
    fit: Literal["stretch", "pad", "crop"] = "stretch"


@dataclass(frozen=True)
class Fold:
    """One split of a cohort into row numbers; no patient stands in two parts.

    ``repeat`` counts repetitions of the whole cross-validation, ``draw`` the few-shot draws.
    """

    train: NDArray[np.intp]
    validation: NDArray[np.intp]
    test: NDArray[np.intp]
    fold: int
    repeat: int = 0
    draw: int | None = None

    @property
    def name(self) -> str:
        """The cell's name, as its folder is called: ``r0-f2`` or ``r0-f2-d7``."""
        draw = "" if self.draw is None else f"-d{self.draw}"
        return f"r{self.repeat}-f{self.fold}{draw}"


# ------------------------------------------------------------------ model


@dataclass(frozen=True)
class Preprocessing:
    """What a backbone's weights expect of a ``(channels, size, size)`` image in [0, 1]."""

    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: Literal["nearest", "bilinear", "bicubic", "area", "lanczos"] = "bicubic"

    @property
    def channels(self) -> int:
        return len(self.mean)


class Encoder(Protocol):
    """What a backbone's module does, beside being an ``nn.Module``.

    ``encoder(images)`` takes normalised images ``(batch, channels, size, size)`` and gives the
    pooled feature ``(batch, width)``, which is the first layer.
    """

    def features(self, images: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Return each named layer as ``(batch, width of the layer)``, from one forward pass."""
        ...


@dataclass(frozen=True)
class Backbone:
    """A vision encoder, its weights loaded, and what a strategy needs to know about it.

    Attributes
    ----------
    module
        An ``nn.Module`` that is an :class:`Encoder`.
    width
        Of the pooled feature.
    roles
        Role -> names of submodules of ``module``, input first. Roles: ``attention_qkv`` (one
        fused matrix, rows q, k, v), ``attention_mixed`` (the same with rows in another order),
        ``attention_query_key`` and ``attention_key_value`` (two of them fused),
        ``attention_query``, ``attention_key``, ``attention_value``, ``attention_output``,
        ``feed_forward_in``, ``feed_forward_out``, ``convolution``, ``norm``. A role that the
        architecture lacks is absent.
    blocks
        Names of the repeated blocks (transformer blocks, CNN stages), input first; what lies
        before the first is the stem.
    layers
        Name -> width of what :meth:`Encoder.features` can return; the first is the pooled
        feature. ViTs: ``last1``, ``last4`` (class tokens of the last blocks, concatenated),
        ``last1+avg``, ``last4+avg`` (with mean patch token). CNNs: ``last1``.
    fingerprint
        Of the weights as loaded.
    head_grid
        Whether the recipe asks for a head on each feature layer and at several learning rates.
    """

    module: nn.Module
    width: int
    preprocessing: Preprocessing
    roles: Mapping[str, tuple[str, ...]]
    blocks: tuple[str, ...]
    layers: Mapping[str, int]
    fingerprint: str
    report: tuple[str, ...] = ()
    head_grid: bool = False


@dataclass(frozen=True)
class BackboneSource:
    """A backbone not yet loaded: cheap to make, says what it is.

    Attributes
    ----------
    fingerprint
        Changes exactly when the loaded weights would: part of the run's key. Made without
        loading the model (digest of the weights file; ``random`` and its seed).
    preprocessing
        So that the pixel cache can be built before the model is loaded.
    load
        Gives a fresh :class:`Backbone`, in eval mode, on the CPU, in fp32. Called once per cell
        that trains; the second call does not read the disk again.
    origin
        Where the weights came from, for the run's record (a file's name, a hub tag).
    lend
        Gives one without the memory that a copy takes, which nobody may train or move to another
        device. A source need not have it.
    """

    fingerprint: str
    preprocessing: Preprocessing
    load: Callable[[], Backbone]
    origin: str = ""
    lend: Callable[[], Backbone] | None = None

    def to_read(self) -> Backbone:
        """Return a backbone only to look at, or to compute with on the CPU."""
        return (self.lend or self.load)()


# ------------------------------------------------------------------ strategy


@dataclass(frozen=True)
class ParameterGroup:
    """Trainable parameters of ``Adapted.model``, by full name, that share a learning rate.

    ``lr=None`` means the recipe's ``head_lr``, ``weight_decay=None`` the recipe's own.
    """

    role: str
    parameters: tuple[str, ...]
    lr: float | None = None
    weight_decay: float | None = None


@dataclass(frozen=True)
class Adapted:
    """A backbone made trainable by a strategy, with its head.

    Attributes
    ----------
    model
        Normalised images ``(batch, channels, size, size)`` -> logits ``(batch, classes)``. Only
        the parameters in ``groups`` require gradients; ``model.train()`` leaves frozen
        normalisation statistics alone.
    groups
        Roles ``head``, and ``body`` or finer.
    save, load
        Write the adapted part (safetensors) into an existing folder; read it back into ``model``.
    merge
        Returns an equivalent model without adapters; ``None`` where there can be none.
    head_first_epochs
        So many epochs train the ``head`` groups alone, before all groups train together.
    """

    model: nn.Module
    groups: tuple[ParameterGroup, ...]
    save: Callable[[Path], None] | None = None
    load: Callable[[Path], None] | None = None
    merge: Callable[[], nn.Module] | None = None
    head_first_epochs: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Probe:
    """Linear heads on frozen features, one per combination; validation chooses.

    ``layers`` names layers of the backbone; a feature layer it lacks is left out, and an empty
    tuple means the pooled feature. With ``strengths`` the heads are L2-penalised logistic
    regressions of these inverse penalties C, solved exactly, and learning rates, weight decays and
    recipe play no part.
    """

    layers: tuple[str, ...] = ()
    learning_rates: tuple[float, ...] = (1e-2, 1e-3, 1e-4)
    weight_decays: tuple[float, ...] = (0.0,)
    standardise: bool = False
    dropout: float = 0.0
    views: int = 0
    strengths: tuple[float, ...] = ()

    reads: ClassVar[tuple[str, ...]] = ("image",)


@dataclass(frozen=True)
class Estimator:
    """A classical classifier on rows of numbers.

    Attributes
    ----------
    inputs
        ``features`` (the backbone's), ``covariates`` (the cohort's, as numbers, NaN where
        unknown), ``both``, or ``none``. With ``both``, the covariates are the last columns, and
        ``fit(X, y, covariates=n)`` is told how many they are.
    candidates
        Label -> function from a seed to an unfitted scikit-learn classifier with
        ``predict_proba``; where there are several, validation average log loss chooses.
    weights
        What class weights of its own do to its probabilities: ``none`` has none; ``exact`` are
        proportional to one over the number of images, of a model of log loss, so that a shift of
        the log odds undoes them; ``inexact`` cannot be undone.
    """

    inputs: Literal["features", "covariates", "both", "none"]
    candidates: Mapping[str, Callable[[int], Any]]
    layer: str = ""
    weights: Literal["none", "exact", "inexact"] = "none"

    @property
    def reads(self) -> tuple[str, ...]:
        """What of a patient it looks at: ``image``, ``covariates``, both, or nothing."""
        image = ("image",) if self.inputs in ("features", "both") else ()
        covariates = ("covariates",) if self.inputs in ("covariates", "both") else ()
        return image + covariates


# ------------------------------------------------------------------ training


@dataclass(frozen=True)
class Loss:
    """Cross-entropy and what modifies it, as numbers, so that many heads can be batched.

    For logits ``z`` and target ``y`` the loss of one sample is ``class_weights[y]`` times the
    (label-smoothed, focal) cross-entropy of ``z + offset - margin[y] * onehot(y)``; a batch's loss
    is the weighted mean, divided by the sum of the samples' weights. Offset and margin belong to
    training: probabilities are the softmax of ``z``.

    Attributes
    ----------
    class_weights, offset, margin
        ``(classes,)`` each.
    balanced_sampling
        Draw every class equally often instead of each image once an epoch.
    image_weights
        ``(images of the cohort,)``: factor on the weight of each image; ``None`` where all are 1.
    """

    class_weights: NDArray[np.float64]
    offset: NDArray[np.float64]
    margin: NDArray[np.float64]
    focal_gamma: float = 0.0
    label_smoothing: float = 0.0
    balanced_sampling: bool = False
    image_weights: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Train:
    """The training recipe; ``configs/train/*.yaml`` sets every number of it.

    Times are in epochs, learning rates before scheduling. ``head_lr`` is for heads trained with
    the backbone; the body's rate belongs to the strategy. ``weight_per`` says what counts once in
    the loss and in class weights: a patient, or each image. ``refit`` fits what validation chose
    again, for the chosen number of epochs, on the training and validation parts together; test
    predictions and saved models are of that fit. ``head_grid`` trains a head for each feature layer
    and each of three learning rates beside each other, and validation chooses one. ``seed`` is of
    initial heads, batches and augmentation; without one it is the run's. ``speedups=False``
    switches off what ``training/speedups`` does. It changes numbers by rounding alone, and is no
    part of a run's key.
    """

    epochs: Annotated[int, Ge(1)] = 30
    patience: Annotated[int, Ge(1)] = 10
    evaluate_every: Annotated[int, Ge(1)] = 1
    batch_size: Annotated[int, Ge(1)] = 16
    accumulate: Annotated[int, Ge(1)] = 1
    head_lr: Annotated[float, Gt(0)] = 1e-3
    min_lr: Annotated[float, Ge(0)] = 0.0
    weight_decay: Annotated[float, Ge(0)] = 0.01
    warmup_epochs: Annotated[float, Ge(0)] = 1.0
    schedule: Literal["cosine", "plateau", "constant"] = "cosine"
    plateau_patience: Annotated[int, Ge(1)] = 25
    clip: Annotated[float, Gt(0)] = 1.0
    monitor: Literal["loss", "mcc", "average_precision"] = "loss"
    weight_per: Literal["patient", "image"] = "patient"
    refit: bool = False
    head_grid: bool = False
    augmentation: Literal["none", "light", "strong"] = "light"
    horizontal_flip: bool = False
    ema: Annotated[float, Ge(0), Lt(1)] = 0.0
    checkpoint_activations: bool = False
    compile: bool = False
    speedups: bool = True
    precision: Literal["auto", "fp32", "tf32", "bf16"] = "auto"
    seed: Annotated[int, Ge(0)] | None = None
    save: Literal["none", "best", "all"] = "none"


@dataclass(frozen=True)
class Fitted:
    """What came out of training one cell.

    Attributes
    ----------
    history
        One mapping per evaluation: ``epoch``, ``train_loss``, ``validation_loss`` and the rest.
    cost
        ``seconds_train``, ``seconds_inference``, ``peak_memory_bytes``, ``precision``, ... as
        measured.
    """

    history: Sequence[Mapping[str, float]]
    best_epoch: int
    cost: Mapping[str, Any] = field(default_factory=dict)


# ------------------------------------------------------------------ run


@dataclass(frozen=True)
class Component:
    """One choice of a config group: which builder, with which settings, under which name."""

    name: str
    builder: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Paths:
    """Where results are written and where caches lie; no part of a run's identity."""

    results: Path
    cache: Path


@dataclass(frozen=True)
class Checks:
    """What a run does about findings of ``data check``; recorded with the run.

    Attributes
    ----------
    leaks
        Patients or pictures in several parts of a fold: ``refuse`` to run, ``drop`` such patients
        from the part that trains or validates, or ``allow`` them.
    duplicates
        Pictures that come several times, wherever they stand.
    """

    leaks: Literal["refuse", "drop", "allow"] = "refuse"
    duplicates: Literal["allow", "refuse"] = "allow"


@dataclass(frozen=True)
class Privacy:
    """Under which names a run stores patients, images, sources and centres; changes no number.

    Attributes
    ----------
    ids
        ``plain``, or ``pseudonyms`` that lead back only with the key.
    key
        File of the key, made if it is missing; by default in the user's settings folder.
    """

    ids: Literal["plain", "pseudonyms"] = "plain"
    key: str | None = None


@dataclass(frozen=True)
class RunConfig:
    """One fully resolved choice of everything that a run depends on.

    ``baselines`` says whether a sweep gets the baselines that join sweeps, ``engine`` where cells
    are computed; they change no number.
    """

    dataset: Component
    model: Component
    strategy: Component
    regime: Component
    cv: Component
    loss: Component
    train: Train
    paths: Paths
    image: ImageOptions = ImageOptions()
    checks: Checks = Checks()
    privacy: Privacy = Privacy()
    seed: int = 42
    device: str = "auto"
    baselines: bool = True
    engine: Component = Component("here", "here")

    @property
    def training_seed(self) -> int:
        """The seed of training; ``seed`` alone splits the patients."""
        return self.seed if self.train.seed is None else self.train.seed
