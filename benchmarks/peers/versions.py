"""Installed versions of the peers."""

from importlib import metadata

PEERS = ("transformers", "litgpt", "mingru-pytorch", "llama-cpp-python")


def peer_versions() -> dict[str, str]:
    """Return the version of every installed peer."""
    installed = {each.metadata["Name"].lower().replace("_", "-"): each.version for each in metadata.distributions()}
    return {name: installed[name] for name in PEERS if name in installed}
