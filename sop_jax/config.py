"""Every configuration field, its default and its meaning, and the checks that need more than one
field.

A config file (see `configs/`) calls `default()`, overrides a few fields and returns the result; the
command line overrides single fields (`--config.noise.rate=0.4`). Optional fields are placeholders
of their type, whose value is None until set, because a plain None could not be overridden from the
command line.
"""

import math

from ml_collections import ConfigDict, config_dict

from sop_jax.errors import UserError, suggestion

DTYPES = ("auto", "float32", "bfloat16")
SCHEDULES = ("constant", "step", "cosine", "triangular")
OPTIMIZERS = ("sgd", "muon")
SOP_VARIANTS = ("paper", "official")
V_DTYPES = ("float32", "bfloat16")
NOISE_KINDS = (
    "none",  # the set's labels as they are
    # inclusive: redraw over all K classes, the true one too (published SOP, ELR, DivideMix)
    "symmetric",
    "symmetric_exclusive",  # redraw over the other K-1 classes: `rate` of the labels are wrong
    "asymmetric",  # the set's own map: CIFAR-10, MNIST, Fashion-MNIST; CIFAR-100 means block_cyclic
    "block_cyclic",  # CIFAR-100: next class in the block of five ids
    "block_swap",  # CIFAR-100: two classes of each block of five are exchanged (published SOP)
    "superclass_cyclic",  # CIFAR-100: next fine class of the same superclass
    "pairflip",  # class c -> c+1 mod K
    "instance",  # instance-dependent (Xia et al. 2020)
    "human",  # CIFAR-10N / CIFAR-100N and the like: see noise.labels and data.labels
)
ASYMMETRIC_KINDS = ("asymmetric", "block_cyclic", "block_swap", "superclass_cyclic", "pairflip")


def base(task: str) -> ConfigDict:
    """Returns the fields that every task has; a task's `default()` adds its own."""
    config = ConfigDict()
    config.task = task  # module of sop_jax.tasks that runs this config
    # of everything random: initialisation, order, augmentation, label noise unless noise.seed is
    # set
    config.seed = 0
    config.compilation_cache = config_dict.placeholder(
        str
    )  # folder; unset: ~/.cache/sop_jax/xla; "off": none
    return config


def default() -> ConfigDict:
    """Returns the main task's defaults, every field present. Learning rates of rows are meant at a
    batch of 128.
    """
    config = base("classify")
    # seeds seed, seed+1, ... trained in turn; noise.seed gives them all one noise draw
    config.num_seeds = 1
    config.epochs = 60  # passes over the training rows
    config.batch_size = 128  # global batch, over all devices
    # network arithmetic: bfloat16 on GPU and TPU, float32 on CPU; logits, losses, rows: float32
    config.dtype = "auto"
    # training steps per device call; 0 chooses: 1 on CPU (see step.py), 64 elsewhere
    config.steps_per_dispatch = 0
    # epochs between evaluations on the test set; the last epoch is always evaluated
    config.eval_every = 1
    config.checkpoint_every = 1  # epochs between checkpoints; the last epoch is always saved
    # keep every training row's mean prediction of the last epochs, N x K floats; False
    config.track_predictions = True
    # for very large N x K: train_pred_probs and the suggestions then come from one evaluation pass
    # of the final network over the training images
    # at evaluated epochs also measure the neural collapse of the training rows
    config.track_collapse = False
    config.deterministic = False  # GPU only: deterministic operations, for bit-equal runs (slower)

    config.data = ConfigDict()
    # digits, cifar10, cifar100, cifar10_n, cifar100_n, mnist, fashion_mnist, npz
    config.data.name = "digits"
    # TFDS data_dir; given and prepared, no socket is opened
    config.data.dir = config_dict.placeholder(str)
    config.data.path = config_dict.placeholder(str)  # the .npz file of data.name='npz'
    # human labels (.npz or published .pt), for noise.kind='human'
    config.data.labels = config_dict.placeholder(str)
    config.data.num_classes = config_dict.placeholder(int)  # K; unset: the set's own
    # use only the first so many training rows (by id)
    config.data.train_limit = config_dict.placeholder(int)
    # share of the training rows held out, scored on given labels only
    config.data.validation_fraction = 0.0
    config.data.downsample = 1  # average blocks of this many pixels on a side (2: 32x32 -> 16x16)

    config.noise = ConfigDict()
    config.noise.kind = "none"  # one of NOISE_KINDS
    # the kind's nominal rate in [0, 1]; the realised rate is printed and saved
    config.noise.rate = 0.0
    # human label set: aggregate, worst, random1..3, noisy, or a key
    config.noise.labels = config_dict.placeholder(str)
    config.noise.seed = config_dict.placeholder(int)  # unset: config.seed

    config.augment = ConfigDict()
    config.augment.crop_padding = 4  # zero padding in pixels before the random crop
    config.augment.flip = True  # random horizontal flip
    # weak view: mirrored every other epoch, half of the rows in even ones
    config.augment.alternating_flip = False
    # second view of SOP+: 'autoaugment' (CIFAR-10 policy) or 'weak'
    config.augment.strong = "autoaugment"
    config.augment.cutout = 16  # side in pixels of the square zeroed in the strong view, 0 for none

    config.model = ConfigDict()
    # small_resnet, resnet18, resnet34, preact_resnet18, fast_net
    config.model.name = "small_resnet"
    # channels of the first stage of small_resnet or fast_net (others: as published)
    config.model.width = 16
    # of small_resnet: silu (smooth: equal losses on any number of devices) or relu
    config.model.activation = "silu"
    # last layer: learnt, or etf: weights fixed as a simplex ETF, the bias learnt
    config.model.classifier = "learnt"
    # what the last block puts out; unset: its own width
    config.model.feature_dim = config_dict.placeholder(int)
    # of fast_net: first layer fixed, to filters that whiten training patches
    config.model.whitening = True

    config.method = ConfigDict()
    # module of sop_jax.methods: ce, sop, sop_plus, focal, label_smoothing, mse
    config.method.name = "sop"
    # SOP: 'paper' (Algorithm 1, projection) or 'official' (published code)
    config.method.variant = "paper"
    # at B=128; unset: published for the data and noise
    config.method.learning_rate_u = config_dict.placeholder(float)
    # at B=128; unset: published for the data and noise
    config.method.learning_rate_v = config_dict.placeholder(float)
    config.method.mse_weight = 1.0  # weight of the squared-error term
    config.method.consistency_weight = 0.9  # lambda_C of SOP+
    config.method.balance_weight = 0.1  # lambda_B of SOP+
    config.method.init_std = 1e-8  # standard deviation of the initial u and v
    # how SOP's v is stored: float32, or bfloat16 for half the memory
    config.method.v_dtype = "float32"

    # focal: power of 1 - p, at least 1: below, the gradient has no bound at p = 1
    config.method.focal_gamma = 3.0
    config.method.smoothing = 0.05  # label_smoothing: share of the target spread over all K classes
    config.method.target_scale = 15.0  # mse: the logit wanted at the given label (0 elsewhere)
    config.method.target_weight = 1.0  # mse: weight of the given label's error among the K

    config.optimizer = ConfigDict()
    # of the network: sgd, or muon on convolution kernels and sgd on the rest
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.02  # SGD on the network
    # Muon on kernels: share of its norm that a step moves one by
    config.optimizer.muon_learning_rate = 0.24
    config.optimizer.momentum = 0.9
    config.optimizer.nesterov = False  # Nesterov's form of momentum
    # coupled: added to the gradient before momentum, on all parameters
    config.optimizer.weight_decay = 5e-4
    config.optimizer.schedule = "cosine"  # constant, step or cosine, by epoch; triangular, by step
    # step: epochs at whose START the rate is multiplied by drop_factor
    config.optimizer.drop_epochs = (40, 80)
    config.optimizer.drop_factor = 0.1
    config.optimizer.final_learning_rate = 2e-4  # cosine: rate that the curve ends at
    # triangular: share of the steps in which the rate rises from 0; then it falls to 0
    config.optimizer.warmup = 0.2
    # decay a step of the average of the parameters that predictions are made with; 0: none
    config.optimizer.ema = 0.0

    # several processes; standard cluster variables are recognised without these
    config.distributed = ConfigDict()
    config.distributed.coordinator = config_dict.placeholder(str)  # host:port of process 0
    config.distributed.num_processes = config_dict.placeholder(int)
    config.distributed.process_id = config_dict.placeholder(int)
    return config


def field_names(config: ConfigDict, prefix: str = "") -> list[str]:
    """Dotted names of all fields: ['seed', ..., 'data.name', ...]."""
    names = []
    for name, value in config.items():
        names += (
            field_names(value, f"{prefix}{name}.")
            if isinstance(value, ConfigDict)
            else [prefix + name]
        )
    return names


def group_of(config: ConfigDict, field: str) -> tuple[ConfigDict, str]:
    """The part of the config that holds a field, and its name there: 'noise.rate' -> (config.noise,
    'rate').
    """
    *groups, name = field.split(".")
    for group in groups:
        config = config[group]
    return config, name


def check_fields(config: ConfigDict, wanted: ConfigDict) -> None:
    """Raises UserError unless the config has the fields of `wanted`, its task's defaults, and no
    others.
    """
    names, wanted_names = field_names(config), field_names(wanted)
    for name in names:
        if name not in wanted_names:
            raise UserError(
                f"config.{name} is unknown{suggestion(name, wanted_names)}; see the default() of the task "
                f"{wanted.task}"
            )
    for name in wanted_names:
        if name not in names:
            raise UserError(
                f"config.{name} is missing; a config file starts from the default() of its task "
                "(sop_jax.config has the main task's)"
            )


def require(ok: bool, field: str, value: object, wanted: str) -> None:
    """Raises UserError naming the field unless `ok`; `wanted` says what it must be."""
    if not ok:
        raise UserError(f"config.{field}={value!r} is not allowed: {wanted}")


def at_least(config: ConfigDict, lowest: float, *fields: str) -> None:
    """Raises UserError unless each field is finite and at least `lowest`, or an optional one that
    is not set.
    """
    for field in fields:
        group, name = group_of(config, field)
        ok = group[name] is None or (group[name] >= lowest and math.isfinite(group[name]))
        require(ok, field, group[name], f"it must be a finite number of at least {lowest}")


def one_of(config: ConfigDict, field: str, choices: tuple[str, ...]) -> None:
    """Raises UserError unless the field is one of the choices."""
    group, name = group_of(config, field)
    if group[name] not in choices:
        raise UserError(
            f"config.{field}={group[name]!r} is unknown{suggestion(str(group[name]), choices)}; "
            f"choose from {', '.join(choices)}"
        )


def check(config: ConfigDict) -> None:
    """Raises UserError naming the first field that cannot be right, by itself or together with
    another.

    What needs the data or the devices is checked where those are known.
    """
    check_fields(config, default())
    at_least(
        config,
        0,
        "seed",
        "noise.seed",
        "steps_per_dispatch",
        "augment.crop_padding",
        "augment.cutout",
        "method.learning_rate_u",
        "method.learning_rate_v",
        "method.mse_weight",
        "method.consistency_weight",
        "method.balance_weight",
        "method.init_std",
        "method.target_scale",
        "method.target_weight",
        "optimizer.learning_rate",
        "optimizer.momentum",
        "optimizer.muon_learning_rate",
        "optimizer.weight_decay",
        "optimizer.drop_factor",
        "optimizer.final_learning_rate",
    )
    at_least(
        config,
        1,
        "num_seeds",
        "epochs",
        "batch_size",
        "eval_every",
        "checkpoint_every",
        "data.downsample",
        "model.width",
        "model.feature_dim",
        "method.focal_gamma",
    )
    at_least(config, 2, "data.num_classes", "data.train_limit")
    one_of(config, "dtype", DTYPES)
    one_of(config, "noise.kind", NOISE_KINDS)
    one_of(config, "method.variant", SOP_VARIANTS)
    one_of(config, "method.v_dtype", V_DTYPES)
    one_of(config, "optimizer.name", OPTIMIZERS)
    one_of(config, "optimizer.schedule", SCHEDULES)
    one_of(config, "augment.strong", ("autoaugment", "weak"))
    one_of(config, "model.activation", ("silu", "relu"))
    one_of(config, "model.classifier", ("learnt", "etf"))

    data, noise, optimizer = config.data, config.noise, config.optimizer
    require(config.seed < 2**32, "seed", config.seed, "it must be below 2**32")
    require(
        config.seed + config.num_seeds <= 2**32,
        "num_seeds",
        config.num_seeds,
        f"seeds are counted up from config.seed={config.seed} and must stay below 2**32",
    )
    require(0 <= noise.rate <= 1, "noise.rate", noise.rate, "a rate lies in [0, 1] (0.4 for 40 %)")
    require(
        noise.kind not in ("none", "human") or noise.rate == 0,
        "noise.rate",
        noise.rate,
        f"noise.kind={noise.kind!r} has no rate; set noise.kind=symmetric or another kind, or leave the rate at 0",
    )
    require(
        0 <= data.validation_fraction < 1,
        "data.validation_fraction",
        data.validation_fraction,
        "it must lie in [0, 1)",
    )
    require(
        data.name != "npz" or data.path is not None,
        "data.path",
        data.path,
        "data.name='npz' needs the file: --config.data.path=FILE.npz",
    )
    require(
        config.augment.flip or not config.augment.alternating_flip,
        "augment.alternating_flip",
        True,
        "it says when to flip, so it needs augment.flip=true",
    )
    require(0 < optimizer.warmup < 1, "optimizer.warmup", optimizer.warmup, "it must lie in (0, 1)")
    require(0 <= optimizer.ema < 1, "optimizer.ema", optimizer.ema, "it must lie in [0, 1)")
    require(
        0 <= config.method.smoothing <= 1,
        "method.smoothing",
        config.method.smoothing,
        "a share lies in [0, 1]",
    )
    drops = optimizer.drop_epochs
    require(
        all(type(drop) is int and drop > 0 for drop in drops) and list(drops) == sorted(set(drops)),
        "optimizer.drop_epochs",
        drops,
        "it must be rising whole numbers of at least 1, such as (40,80)",
    )
    process, processes = config.distributed.process_id, config.distributed.num_processes
    require(
        process is None or processes is None or 0 <= process < processes,
        "distributed.process_id",
        process,
        "it must lie in [0, num_processes)",
    )


def each_seed(config: ConfigDict) -> list[ConfigDict]:
    """The config of each of its `num_seeds` seeds, as a run of one seed: what its folder holds."""
    copies = [config.copy_and_resolve_references() for _ in range(config.num_seeds)]
    for number, copy in enumerate(copies):
        copy.update(seed=config.seed + number, num_seeds=1)
    return copies


def changed_fields(saved: dict, config: ConfigDict, requested: ConfigDict) -> list[str]:
    """Fields in which `config` departs from a run's saved config, but for those that may differ on
    resume.

    These may: data.dir, the cadences, the place of the cache, steps per dispatch, the processes, a
    `dtype` or `seeds_by` left to the device, and a larger `epochs`, but for schedules whose earlier
    rates depend on the length (cosine, triangular). A field that the saved config is too old to
    have stands at its default, which keeps the older numbers.

    Args:
      saved: contents of config.json.
      config: the resolved config. requested: the same before its open fields were filled in.
    """
    may_differ = {
        "data.dir",
        "eval_every",
        "checkpoint_every",
        "compilation_cache",
        "steps_per_dispatch",
    }
    reasons, schedule = {}, config.optimizer.schedule
    if schedule in ("cosine", "triangular"):
        reasons["epochs"] = f": a {schedule} schedule's earlier rates depend on the length"
    elif config.epochs >= saved.get("epochs", config.epochs):
        may_differ.add("epochs")
    else:
        reasons["epochs"] = ": a run can be made longer, not shorter"
    may_differ |= {field for field in ("dtype",) if requested[field] == "auto"}
    return [
        f"{name} (was {old!r}, now {new!r}{reasons.get(name, '')})"
        for name, old, new in differences(saved, config, default())
        if name not in may_differ and not name.startswith("distributed.")
    ]


def differences(
    saved: dict, config: ConfigDict, defaults: ConfigDict
) -> list[tuple[str, object, object]]:
    """(field, saved value, new value) of the fields in which they differ; one not saved stands at
    its default.
    """

    def flat(tree, prefix=""):
        for name, value in tree.items():
            if isinstance(value, dict):
                yield from flat(value, f"{prefix}{name}.")
            else:
                yield prefix + name, list(value) if isinstance(value, tuple) else value

    old = {**dict(flat(defaults.to_dict())), **dict(flat(saved))}
    new = dict(flat(config.to_dict()))
    return [
        (name, old.get(name), new.get(name))
        for name in {**old, **new}
        if old.get(name) != new.get(name)
    ]
