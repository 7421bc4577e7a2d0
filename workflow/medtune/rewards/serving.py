"""Starting the reward service that a configuration names."""

from pathlib import Path
from urllib.parse import urlsplit

from medtune.config.stages import RewardServiceStage
from medtune.metrics.models import Models
from medtune.records.sample import iterate, load_split
from medtune.rewards.reports import REPORT, reference
from medtune.rewards.service import RewardServer, Scorer, serve
from medtune.runtime.errors import ConfigError


def run_service(stage: RewardServiceStage, dataset: Path | None) -> None:
    """Serve the metric of `reward.service` at its address, until the process ends.

    Args:
        stage: The configuration; `evaluation.scores` says where the models are.
        dataset: Folder of the data set, whose training reports are references of canonical
            RadCliQ; None: it has none.

    Raises:
        ConfigError: There is no service in the configuration.
        ModelError: A model is missing, or cannot be used.
    """
    service = stage.reward.service
    if service is None:
        raise ConfigError("reward.service", "is null", "configure a service")

    def load() -> Scorer:
        train = iterate(load_split(dataset, "train")) if dataset else ()
        references = [reference(one) for one in train if one.task == REPORT]
        return Models(stage.evaluation.scores, references or None).scorer(service.metric)

    parts = urlsplit(service.url)
    host, port = parts.hostname or "127.0.0.1", parts.port or 80
    serve(RewardServer(host, port, service.metric), load)
