"""Hydra's way to prognobench's launcher: it hands a sweep over as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class SweepLauncherConf:
    """The launcher's entry in Hydra's config."""

    _target_: str = "hydra_plugins.prognobench_launcher.SweepLauncher"


ConfigStore.instance().store(group="hydra/launcher", name="prognobench", node=SweepLauncherConf)


class SweepLauncher(Launcher):
    """Compose every job of a sweep and give all of them to the collector at once.

    Running them one by one, as Hydra's basic launcher does, would repeat the work that runs share.
    """

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self._context, self._config = hydra_context, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        from prognobench.compose import collect

        loader: Any = self._context.config_loader
        return collect(loader, self._config, job_overrides)
