"""The fields that every run of the main task has, each with its type, default and meaning.

What a method, a network, an optimiser or a schedule needs besides stands with it, not here.
"""

from sop_jax.fields import COUNT, SIZE, Bounds, Field

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
SEED = Bounds(0, 2**32 - 1)
PIXELS = Bounds(0, 4096)

BASE = (  # of every task; each of them sets `task` itself
    Field("task", str, "classify", "module of sop_jax.tasks that runs this config"),
    Field(
        "seed",
        int,
        0,
        "of everything random: initialisation, order, augmentation, label noise without noise.seed",
        SEED,
    ),
    Field(
        "compilation_cache",
        str,
        None,
        "folder of compiled programs; unset: ~/.cache/sop_jax/xla; 'off': none",
    ),
)
FIELDS = BASE + (
    Field(
        "num_seeds",
        int,
        1,
        "seeds seed, seed+1, ... trained one after the other; noise.seed gives all the same noise",
        Bounds(1, 1000),
    ),
    Field("epochs", int, 60, "passes over the training rows", COUNT),
    Field(
        "batch_size",
        int,
        None,
        "global batch, over all devices; unset: 128, less where an epoch had few steps",
        COUNT,
    ),
    Field(
        "dtype",
        str,
        "auto",
        "network arithmetic; auto: bfloat16 on GPU and TPU, float32 on CPU; the rest is float32",
        choices=("auto", "float32", "bfloat16"),
    ),
    Field(
        "steps_per_dispatch",
        int,
        0,
        "training steps in one device call; 0 chooses: 1 on CPU, 64 elsewhere",
        Bounds(0, 100_000),
    ),
    Field(
        "eval_every", int, 1, "epochs between evaluations on the test set; the last always", COUNT
    ),
    Field("checkpoint_every", int, 1, "epochs between checkpoints; the last always", COUNT),
    Field(
        "track_predictions",
        bool,
        True,
        "keep each training row's mean prediction over all epochs, N x K floats; without it, "
        "the verdict reads one pass of the final network over the training images",
    ),
    Field(
        "crossfit_epochs",
        int,
        None,
        "epochs of two more networks, each trained on half of the rows, whose predictions of the "
        "other half the verdict on the labels rests on; unset: a fifth of epochs, or what 250 "
        "steps take; 0: none",
        Bounds(0, 1_000_000),
    ),
    Field(
        "track_collapse",
        bool,
        False,
        "measure the neural collapse of the training rows at evaluated epochs",
    ),
    Field(
        "deterministic",
        bool,
        False,
        "GPU only: deterministic operations, for bit-equal runs (slower)",
    ),
    Field(
        "data.name",
        str,
        "digits",
        "digits, cifar10, cifar100, cifar10_n, cifar100_n, mnist, fashion_mnist or npz",
    ),
    Field("data.dir", str, None, "TFDS data_dir; given and prepared, no socket is opened"),
    Field("data.path", str, None, "the .npz file of data.name=npz"),
    Field("data.labels", str, None, "file of human labels (.npz, .pt), for noise.kind=human"),
    Field("data.num_classes", int, None, "K; unset: the set's own", Bounds(2, 100_000)),
    Field(
        "data.train_limit",
        int,
        None,
        "use only the first so many training rows, by id",
        Bounds(2, 2**31 - 1),
    ),
    Field(
        "data.validation_fraction",
        float,
        0.0,
        "share of the training rows held out, scored on given labels only",
        Bounds(0, 1),
    ),
    Field(
        "data.downsample",
        int,
        1,
        "average blocks of so many pixels on a side (2: 32x32 becomes 16x16)",
        Bounds(1, 4096),
    ),
    Field("noise.kind", str, "none", "how labels are made wrong", choices=NOISE_KINDS),
    Field(
        "noise.rate",
        float,
        0.0,
        "the kind's nominal rate, 0.4 for 40 %; the realised rate is printed and saved",
        Bounds(0, 1),
    ),
    Field(
        "noise.labels",
        str,
        None,
        "set of human labels: aggregate, worst, random1..3, noisy, or a key of the file",
    ),
    Field("noise.seed", int, None, "unset: config.seed", SEED),
    Field(
        "augment.crop_padding",
        int,
        None,
        "zero padding in pixels before the random crop; unset: an eighth of the shorter side",
        PIXELS,
    ),
    Field("augment.flip", bool, None, "random horizontal flip; unset: of colour images, not grey"),
    Field(
        "augment.alternating_flip",
        bool,
        False,
        "weak view: mirrored every other epoch, half of the rows in even ones",
    ),
    Field(
        "augment.strong",
        str,
        None,
        "the strong view: the CIFAR-10 policy, or crop and flip as in the weak one; unset: "
        "autoaugment for colour images, weak for grey",
        choices=("autoaugment", "weak"),
    ),
    Field(
        "augment.cutout",
        int,
        None,
        "side in pixels of the square zeroed in the strong view, 0 for none; unset: half of the "
        "shorter side",
        PIXELS,
    ),
    Field("model.name", str, "small_resnet", "network; each has fields of its own"),
    Field("method.name", str, "sop", "module of sop_jax.methods; each has fields of its own"),
    Field("optimizer.name", str, "sgd", "optimiser of the network; each has fields of its own"),
    Field("optimizer.learning_rate", float, 0.02, "of gradient descent on the network", SIZE),
    Field("optimizer.momentum", float, 0.9, "share of the last step that the next keeps", SIZE),
    Field("optimizer.nesterov", bool, False, "Nesterov's form of momentum"),
    Field(
        "optimizer.weight_decay",
        float,
        5e-4,
        "coupled: added to the gradient before momentum, on all parameters",
        SIZE,
    ),
    Field("optimizer.schedule", str, "cosine", "of the learning rate; each has fields of its own"),
    Field(
        "optimizer.ema",
        float,
        0.0,
        "decay a step of the average of the parameters that predictions are made with; 0: none",
        Bounds(0, 1),
    ),
    Field("distributed.coordinator", str, None, "several processes: host:port of process 0"),
    Field("distributed.num_processes", int, None, "how many; clusters say it themselves", COUNT),
    Field("distributed.process_id", int, None, "number of this one, from 0", Bounds(0, 2**31 - 1)),
)
# Unset, they are chosen from the data, see `fitting`.
FITTED = (
    "batch_size",
    "augment.crop_padding",
    "augment.flip",
    "augment.strong",
    "augment.cutout",
)
