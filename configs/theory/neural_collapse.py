from sop_jax.tasks.neural_collapse import default


def get_config():
    config = default()
    config.epochs = 200
    config.eval_every = 2
    config.checkpoint_every = 50
    config.batch_size = 64
    config.augment.crop_padding = 0
    config.augment.flip = False
    config.model.activation = "relu"
    config.optimizer.learning_rate = 0.1
    config.optimizer.weight_decay = 5e-3
    config.optimizer.final_learning_rate = 1e-3
    config.method.learning_rate_u = 20.0
    config.method.learning_rate_v = 20.0
    return config
