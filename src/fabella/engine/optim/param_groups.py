"""How fast each weight moves and decays: the config's groups, spread over the parameter table. Both engines read it."""

from collections.abc import Mapping
from dataclasses import dataclass

from fabella.config.optimizer import Adam, AdamW, Muon
from fabella.models.parameters import Parameter, Table, block_matrices


@dataclass(frozen=True, slots=True)
class Settings:
    """Of one weight: ``lr_factor`` times the step's learning rate, and what ``weight_decay`` is a share of."""

    lr_factor: float
    weight_decay: float


def settings_of(table: Table, section: AdamW | Adam | Muon) -> Mapping[str, Settings]:
    """The settings of every weight, in the table's order."""
    muons = set(block_matrices(table)) if isinstance(section, Muon) else set[str]()
    return {name: _settings(group_of(parameter), section, of_muon=name in muons) for name, parameter in table.items()}


def group_of(parameter: Parameter) -> str:
    """``embeddings`` (read-out heads among them), ``matrices``, or ``vectors``: biases and the scales of norms."""
    if parameter.embedding:
        return "embeddings"
    return "matrices" if parameter.decay else "vectors"


def _settings(group: str, section: AdamW | Adam | Muon, *, of_muon: bool) -> Settings:
    match section:
        case Adam():
            return Settings(getattr(section.groups, group).lr_factor, 0.0)
        case AdamW():
            lr_factor, decay = 1.0, section.weight_decay
        case Muon() if of_muon:
            lr_factor, decay = 1.0, section.weight_decay
        case Muon():
            lr_factor, decay = section.rest_lr_factor, section.rest_weight_decay
    own = getattr(section.groups, group)
    return Settings(lr_factor * own.lr_factor, decay * own.decay_factor)
