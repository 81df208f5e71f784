"""Hydra's way to prognobench's launcher: it hands a sweep over as a whole."""

from __future__ import annotations

from collections.abc import Sequence

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

ConfigStore.instance().store(
    group="hydra/launcher",
    name="prognobench",
    node={"_target_": "hydra_plugins.prognobench_launcher.SweepLauncher"},
)


class SweepLauncher(Launcher):
    """Compose every job of a sweep and give all of them to the collector at once.

    Running them one by one, as Hydra's basic launcher does, would repeat the work that runs share.
    """

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        from prognobench.cli.compose import SweepLoader

        self._loader = SweepLoader(hydra_context.config_loader, config)
        # The sweeper composes each job once to see whether it can; it shares this one's memory.
        hydra_context.config_loader = self._loader

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        from prognobench.cli.compose import collect

        return collect(self._loader, job_overrides)
