"""Parameter groups: a learning rate for every part of the model; biases and norms do not decay."""

from typing import Any, get_args

from medtune.config.base import Part
from medtune.config.training import OptimizerConfig
from medtune.training.trainable import part_of


def decaying(model: Any) -> set[str]:
    """Return the names of the parameters that weight decay applies to: all but biases and norms.

    The trainer of transformers 5.17 goes by names, and so decays Qwen2.5-VL's `norm1` and `ln_q`.
    """
    norms = {
        name for name, module in model.named_modules() if "norm" in type(module).__name__.lower()
    }
    names = (name for name, _ in model.named_parameters())
    return {n for n in names if not n.endswith("bias") and n.rpartition(".")[0] not in norms}


def parameter_groups(model: Any, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Return the optimizer's groups of the trained parameters, up to two for each part.

    The language model comes first: the trainer logs the first group's rate.
    """
    decayed, rates = decaying(model), config.learning_rates.given()
    if "language" in rates:
        rates.setdefault("head", rates["language"])
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    groups = []
    for part in reversed(get_args(Part)):
        for decay in (True, False):
            found = [p for n, p in trained if part_of(n) == part and (n in decayed) == decay]
            if found:
                rate = rates.get(part, config.learning_rate)
                weight_decay = config.weight_decay if decay else 0.0
                groups.append({"params": found, "lr": rate, "weight_decay": weight_decay})
    return groups


class PartRates:
    """Makes a Hugging Face trainer optimize by these groups; put it before the trainer's class.

    Groups survive a checkpoint, since the same model and configuration give the same groups.

    Attributes:
        section: The training section; set before training.
    """

    section: OptimizerConfig
    args: Any
    model: Any
    optimizer: Any

    def create_optimizer(self, model: Any = None) -> Any:
        """Return the optimizer, made at the first call."""
        if self.optimizer is None:
            model = self.model if model is None else model
            kind, settings = self.get_optimizer_cls_and_kwargs(self.args, model)  # type: ignore[attr-defined]
            self.optimizer = kind(parameter_groups(model, self.section), **settings)
        return self.optimizer
