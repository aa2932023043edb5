"""How fast each weight moves and decays: the config's groups, spread over the parameter table. Both engines read it."""

from collections.abc import Mapping
from dataclasses import dataclass

from fabella.config.optimizer import Adam, AdamW, Muon
from fabella.models.parameters import ParameterSpec, ParameterTable, block_matrices


@dataclass(frozen=True, slots=True)
class ParamSettings:
    """Of one weight: ``lr_factor`` times the step's learning rate, and what ``weight_decay`` is a share of."""

    lr_factor: float
    weight_decay: float


def param_settings(table: ParameterTable, section: AdamW | Adam | Muon) -> Mapping[str, ParamSettings]:
    """The settings of every weight, in the table's order."""
    muons = set(block_matrices(table)) if isinstance(section, Muon) else set[str]()
    return {
        name: _settings(param_group(parameter), section, of_muon=name in muons) for name, parameter in table.items()
    }


def param_group(parameter: ParameterSpec) -> str:
    """``embeddings`` (read-out heads among them), ``matrices``, or ``vectors``: biases and the scales of norms."""
    if parameter.embedding:
        return "embeddings"
    return "matrices" if parameter.decay else "vectors"


def _settings(group: str, section: AdamW | Adam | Muon, *, of_muon: bool) -> ParamSettings:
    match section:
        case Adam():
            return ParamSettings(getattr(section.groups, group).lr_factor, 0.0)
        case AdamW():
            lr_factor, decay = 1.0, section.weight_decay
        case Muon() if of_muon:
            lr_factor, decay = 1.0, section.weight_decay
        case Muon():
            lr_factor, decay = section.adamw_lr_factor, section.adamw_weight_decay
    own = getattr(section.groups, group)
    return ParamSettings(lr_factor * own.lr_factor, decay * own.decay_factor)
